//! Puts the simulated room in the place of src/rt.rs, in this package alone.

fn main() {
    println!("cargo::rustc-cfg=anyproxy_sim");
    println!("cargo::rerun-if-changed=build.rs");
}
