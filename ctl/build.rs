//! Links `ctl` for a fixed address.
//!
//! It starts once for every command, and a program that is loaded anywhere has over 20,000 addresses to adjust
//! each time: a fifth of all that `ctl exec` takes. Nobody can connect to it, and stack, heap and libraries are
//! where the kernel puts them all the same. Services stay position-independent.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // What is linked statically for musl brings a start of its own that moves itself.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
