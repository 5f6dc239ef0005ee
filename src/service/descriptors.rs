//! How many descriptors this process may have: a user, a target and a tunnel are one each.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as this process may. The usual soft limit of 1,024 is for programs that use `select`; this is none.
/// Says what it is then, `None` for no limit.
///
/// # Errors
/// When the system does not let us; the limit is as it was.
pub fn raise() -> rustix::io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

/// What it is now, `None` for no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
