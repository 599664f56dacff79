//! Compiles the contracts with protox, a Protobuf compiler in Rust: no `protoc` on the machine.

use std::{env, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: [&str; 8] = [
    "slipway/types/v1/types.proto",
    "slipway/registry/v1/registry.proto",
    "slipway/registry/v1/upkeep.proto",
    "slipway/netd/v1/netd.proto",
    "slipway/runtime/v1/container.proto",
    "slipway/runtime/v1/runtime.proto",
    "slipway/runtime/v1/worker.proto",
    "slipway/builder/v1/builder.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, [&root])?;
    // For the reflection service, without the comments: they are half of its size in memory.
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.join("slipway.bin"), bare.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".slipway")
        .skip_debug(["slipway.types.v1.RegistryAuth"])
        .compile_fds(descriptors)?;
    Ok(())
}
