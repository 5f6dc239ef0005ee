//! How many descriptors the program takes for itself.

use crate::support::{Program, field};

/// Soft and hard limit of a process.
fn limits(pid: u32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("it has a limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    [words.next().expect("soft"), words.next().expect("hard")]
}

// proves T18: a soft limit of the shell's is no limit of ours
#[test]
fn the_program_takes_as_many_descriptors_as_it_may() {
    let program = Program::start_limited(200, &["serve", "--listen", "127.0.0.1:0"]);
    program.wait(&["event=ready"]);
    let [soft, hard] = limits(program.pid());
    assert_ne!(soft, "200");
    assert_eq!(soft, hard);
    assert_eq!(field(&program.wait(&["event=start"]), "nofile"), soft);
    program.stop();
}
