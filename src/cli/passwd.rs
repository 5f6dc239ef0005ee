//! `anyproxy passwd`: whose key, and where its password is.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Name;
use crate::proto::derive::Cost;
use crate::proto::keys::Grant;

/// `anyproxy passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwd {
    /// Whose key it is.
    pub whose: Whose,
    /// Where its password is.
    pub password: PasswordFrom,
    /// What a guess costs.
    pub cost: Cost,
}

/// Whose key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The users of a group.
    User(Name),
    /// A client, and what it may serve and open.
    Client(Name, Grant),
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordFrom {
    /// In this file; `-` is standard input.
    File(PathBuf),
    /// Nowhere yet: drawn at random, and written to this file, which is made.
    Generate(PathBuf),
}

#[derive(Args)]
pub(super) struct RawPasswd {
    #[command(subcommand)]
    whose: RawWhose,
}

#[derive(Subcommand)]
enum RawWhose {
    /// For the users of a group: its name is their user name
    User {
        /// The group
        #[arg(value_name = "GROUP")]
        name: Name,
        #[command(flatten)]
        common: RawCommon,
    },
    /// For a client that dials the gateway with --name NAME
    Client {
        /// The client
        #[arg(value_name = "NAME")]
        name: Name,
        /// A group that it may serve; may be repeated
        #[arg(long = "group", value_name = "GROUP", required = true)]
        groups: Vec<Name>,
        /// A port, or a range of them, that it may open on the gateway; 0 is any free one; may be repeated
        #[arg(long = "port", value_name = "PORT[-PORT]")]
        ports: Vec<String>,
        #[command(flatten)]
        common: RawCommon,
    },
}

#[derive(Args)]
struct RawCommon {
    /// The file with the password, readable by its owner alone; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    password_file: Option<PathBuf>,
    /// Draw a password, and make FILE with it, readable by its owner alone; nothing may be there yet
    #[arg(long, value_name = "FILE")]
    generate: Option<PathBuf>,
    /// Memory that one guess takes, 1024 to 262144
    #[arg(long, value_name = "KIB", default_value_t = Cost::default().parts()[0])]
    memory_kib: u32,
    /// Passes over that memory, 1 to 16
    #[arg(long, value_name = "N", default_value_t = Cost::default().parts()[1])]
    passes: u32,
}

impl TryFrom<RawPasswd> for Passwd {
    type Error = String;

    fn try_from(raw: RawPasswd) -> Result<Passwd, String> {
        let (whose, common) = match raw.whose {
            RawWhose::User { name, common } => (Whose::User(name), common),
            RawWhose::Client { name, groups, ports, common } => {
                let groups: Vec<&str> = groups.iter().map(Name::as_str).collect();
                let (groups, ports) = (groups.join(","), ports.join(","));
                let of = |flag, why| format!("anyproxy: passwd: --{flag}: {why}");
                Grant::parse(&groups, "").map_err(|why| of("group", why))?;
                let grant = Grant::parse(&groups, &ports).map_err(|why| of("port", why))?;
                (Whose::Client(name, grant), common)
            }
        };
        let RawCommon { password_file, generate, memory_kib, passes } = common;
        let cost = Cost::new(memory_kib, passes, 1);
        let cost = cost.ok_or("anyproxy: passwd: --memory-kib is 1024 to 262144, --passes 1 to 16")?;
        let password = match (password_file, generate) {
            (Some(path), _) => PasswordFrom::File(path),
            (None, Some(path)) => PasswordFrom::Generate(path),
            (None, None) => return Err("anyproxy: passwd: want --password-file or --generate".into()),
        };
        Ok(Passwd { whose, password, cost })
    }
}
