//! `anyproxy check`: whether a client's rules can be read, and what they make of a target.

use clap::Args;

use super::values;
use crate::limits::CLI_RULES_MAX;
use crate::proto::target::Target;

/// `anyproxy check`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// As for a client
    #[arg(long, alias = "allowed-hosts", value_name = "PATTERN", value_parser = values::pattern)]
    pub allow: Vec<String>,
    /// As for a client
    #[arg(long, alias = "forbidden-hosts", value_name = "PATTERN", value_parser = values::pattern)]
    pub deny: Vec<String>,
    /// Say which rule decides about a target and about each address that its name has; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub explain: Vec<Target>,
}

impl Check {
    /// # Errors
    /// When a flag was given too often.
    pub(super) fn bounded(self) -> Result<Check, String> {
        let Check { allow, deny, explain } = &self;
        for (flag, len) in [("allow", allow.len()), ("deny", deny.len()), ("explain", explain.len())] {
            if len > CLI_RULES_MAX {
                return Err(format!("anyproxy: --{flag}: given {len} times, at most {CLI_RULES_MAX}"));
            }
        }
        Ok(self)
    }
}
