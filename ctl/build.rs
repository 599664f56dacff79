//! Links `ctl` for a fixed address.
//!
//! It starts once for every command, and a program that is loaded anywhere has over 20,000 addresses to adjust
//! each time: a fifth of all that `ctl exec` takes. Nobody can connect to it, and stack, heap and libraries are
//! where the kernel puts them all the same. Services stay position-independent.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
