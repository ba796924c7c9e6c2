//! Makes `proto/src/gen` from `proto/wuling`. Generated code is checked in, so that a build needs
//! neither protoc nor this crate; `cargo xtask check` makes it again and compares.

use crate::root;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Makes the generated code in its place.
pub(crate) fn generate() -> Result<()> {
    let proto = root().join("proto");
    let out = proto.join("src/gen");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    std::fs::create_dir_all(&out)?;
    generate_into(&proto, &out)
}

/// Fails when the checked-in code differs from what the proto files make.
pub(crate) fn verify() -> Result<()> {
    let proto = root().join("proto");
    let fresh = root().join("target/proto-verify");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir_all(&fresh)?;
    generate_into(&proto, &fresh)?;
    let mut names: Vec<_> = std::fs::read_dir(&fresh)?
        .chain(std::fs::read_dir(proto.join("src/gen"))?)
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    names.sort();
    names.dedup();
    for name in names {
        let made = std::fs::read(fresh.join(&name)).ok();
        let kept = std::fs::read(proto.join("src/gen").join(&name)).ok();
        anyhow::ensure!(
            made == kept,
            "proto/src/gen/{} is stale: run `cargo xtask proto`",
            name.display()
        );
    }
    Ok(())
}

fn generate_into(proto: &Path, out: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(&proto.join("wuling"), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([proto])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files).context("the proto files do not compile")?;
    let set = compiler.file_descriptor_set();
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(true)
        .client_mod_attribute(".", "#[cfg(feature = \"rpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"rpc\")]")
        .out_dir(out)
        .compile_fds(set)?;
    // Only this form keeps the custom options (privacy classes) that the contract tests read.
    let encoded = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("descriptor.binpb"), encoded)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
