//! Programs that are not ours: Python and grpcio, written from the contract alone.

use super::World;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lists of packages; what is installed is all of them, in this order.
const LISTS: [&str; 2] = ["foreign/python", "peers/python"];

/// A foreign program, with stubs made from the proto files for this test alone.
pub(crate) struct Python {
    interpreter: PathBuf,
    program: PathBuf,
    stubs: PathBuf,
}

impl Python {
    /// A program below `tests`, beside a linkage.
    pub(crate) fn new(world: &World, program: &str) -> Self {
        Self::in_folder(&world.path("."), program)
    }

    /// The same with a folder of its own for the stubs.
    pub(crate) fn in_folder(dir: &Path, program: &str) -> Self {
        let packages = root().join("target/python");
        let list = |dir: &Path| std::fs::read_to_string(dir.join("requirements.txt")).ok();
        let wanted = LISTS.map(|dir| list(&root().join("tests").join(dir)).unwrap()).concat();
        assert!(
            list(&packages) == Some(wanted),
            "the foreign programs' Python packages are missing or old: run deploy/setup.sh"
        );
        let interpreter = packages.join("bin/python");
        let program = root().join("tests").join(program);
        let python = Self { interpreter, program, stubs: dir.join("stubs") };
        std::fs::create_dir(&python.stubs).unwrap();
        let mut protoc = Command::new(&python.interpreter);
        protoc.args(["-m", "grpc_tools.protoc"]).arg("-I").arg(root().join("proto"));
        for out in ["--python_out", "--grpc_python_out"] {
            protoc.arg(format!("{out}={}", python.stubs.display()));
        }
        let output = protoc.args(protos(&root().join("proto/wuling"))).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        python
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(&self.program).args(words);
        command.env("PYTHONPATH", &self.stubs).env("PYTHONDONTWRITEBYTECODE", "1");
        // A proxy of the machine's must not come between.
        command.env("no_grpc_proxy", "127.0.0.1").stdin(Stdio::null());
        command
    }

    /// Runs a step; gives its exit code and what it told last.
    pub(crate) fn run(&self, words: &[&str]) -> (i32, Value) {
        let output = self.command(words).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let last = told.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let last = last.unwrap_or_else(|| {
            panic!("{words:?} told nothing: {}", String::from_utf8_lossy(&output.stderr))
        });
        (output.status.code().unwrap(), last)
    }

    /// Runs a step that must succeed.
    pub(crate) fn done(&self, words: &[&str]) -> Value {
        let (exit, told) = self.run(words);
        assert_eq!(exit, 0, "{words:?}: {told}");
        told
    }
}

/// The top of the tree.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn protos(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { protos(&path) } else { vec![path] }).collect()
}
