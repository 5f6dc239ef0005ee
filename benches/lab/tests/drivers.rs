//! The tests of the drivers, which are in Python: `test_lab.py`.

use std::process::Command;

#[test]
fn the_drivers_keep_their_tests() {
    let output = Command::new("python3")
        .args(["-B", "-m", "unittest", "test_lab"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the drivers want python3, and so do their tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nOK"), "{said}");
    assert!(!said.contains("Ran 0 tests"), "{said}");
}
