//! Arguments: `--name value` and bare `--flag`s, told apart by what the program declares.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

/// The arguments of one program, every one of them known.
#[derive(Debug, Default)]
pub struct Args {
    values: HashMap<String, String>,
    flags: Vec<String>,
}

impl Args {
    /// Reads the process's arguments, of which those in `values` take a value and those in `flags` none.
    ///
    /// # Errors
    /// When an argument is not known, or its value is missing.
    pub fn of_process(values: &[&str], flags: &[&str]) -> Result<Args, String> {
        Args::parse(std::env::args().skip(1), values, flags)
    }

    fn parse(
        mut from: impl Iterator<Item = String>,
        values: &[&str],
        flags: &[&str],
    ) -> Result<Args, String> {
        let mut args = Args::default();
        while let Some(name) = from.next() {
            if flags.contains(&name.as_str()) {
                args.flags.push(name);
            } else if values.contains(&name.as_str()) {
                let value = from.next().ok_or_else(|| format!("{name} needs a value"))?;
                args.values.insert(name, value);
            } else {
                return Err(format!("{name}: not known; there are {} {}", values.join(" "), flags.join(" ")));
            }
        }
        Ok(args)
    }

    /// Whether the flag was given.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    /// The value of `name`, if it was given.
    ///
    /// # Errors
    /// When the value is not of its type.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>, String>
    where
        T::Err: Display,
    {
        let Some(value) = self.values.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|error| format!("{name} {value}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned), &["--port"], &["--hint"])
    }

    #[test]
    fn values_and_flags_are_told_apart() {
        let args = parse("--hint --port 81").expect("both are known");
        assert!(args.has("--hint"));
        assert_eq!(args.get::<u16>("--port"), Ok(Some(81)));
        assert_eq!(parse("").expect("nothing is well").get::<u16>("--port"), Ok(None));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("--prot 81").is_err());
        assert!(parse("--port").is_err());
        assert!(parse("--port x").expect("read later").get::<u16>("--port").is_err());
    }
}
