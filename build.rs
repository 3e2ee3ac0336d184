//! Compiles `proto/*.proto` to Rust without an outside compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["manifest.proto", "peer.proto"], ["proto"])?;
    // A manifest's piece hashes stay slices of the received bytes: one copy of what may be megabytes.
    prost_build::Config::new().bytes([".piecework.v1"]).compile_fds(files)?;
    Ok(())
}
