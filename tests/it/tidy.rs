//! The house rules that no lint holds: which crate may use which, how long a file may be, which
//! words are ours.
//!
//! Goal: the rules stay true without anybody remembering them. Method: read `cargo metadata` and
//! the files; a checker that could pass by seeing nothing is first shown something bad.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A row of the import table: direct normal dependencies of one crate.
struct Row {
    name: &'static str,
    /// What it may use of ours.
    ours: &'static [&'static str],
    /// What it never names itself, of others.
    never: &'static [&'static str],
}

/// Every crate of ours but the runner and the tests.
const ALL: &[&str] = &[
    "domain",
    "wuling-proto",
    "seal",
    "storage",
    "runtime",
    "exchange",
    "region",
    "gateway",
    "device",
    "cli",
];

const IMPORTS: [Row; 12] = [
    Row {
        name: "domain",
        ours: &[],
        never: &[
            "tokio",
            "tonic",
            "prost",
            "sqlx",
            "redis",
            "serde_json",
            "chrono",
            "jiff",
            "time",
        ],
    },
    Row { name: "wuling-proto", ours: &["domain"], never: &["sqlx", "redis", "tokio"] },
    Row {
        name: "seal",
        ours: &["domain", "wuling-proto"],
        never: &["tokio", "tonic", "sqlx", "redis"],
    },
    Row { name: "storage", ours: &["domain", "seal"], never: &["tonic"] },
    Row { name: "runtime", ours: &["domain"], never: &[] },
    Row {
        name: "exchange",
        ours: &["domain", "wuling-proto", "seal", "storage", "runtime"],
        never: &[],
    },
    Row {
        name: "region",
        ours: &["domain", "wuling-proto", "seal", "storage", "exchange", "runtime"],
        never: &[],
    },
    Row {
        name: "gateway",
        ours: &["domain", "wuling-proto", "seal", "storage", "runtime"],
        never: &[],
    },
    Row { name: "device", ours: &["domain", "wuling-proto", "seal"], never: &[] },
    Row { name: "cli", ours: ALL, never: &[] },
    Row { name: "tests", ours: ALL, never: &[] },
    Row { name: "xtask", ours: &[], never: &[] },
];

/// What may lie at the top of the tree, besides names that begin with a dot.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "gateway",
    "proto",
    "services",
    "target",
    "tests",
];

const FILE_LINES_MAX: usize = 600;
const FILE_LINES_MAX_IN_TESTS: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const FUNCTION_LINES_MAX_IN_TESTS: usize = 100;
const README_LINES_MAX: usize = 250;

/// Words that the glossary has another word for, with that word.
const SYNONYMS: [(&str, &str); 7] = [
    ("broker", "gateway"),
    ("handset", "device, phone"),
    ("hub", "gateway"),
    ("ledger", "stream"),
    ("tenant", "region"),
    ("treaty", "agreement"),
    ("watermark", "cursor, head"),
];

/// Words in a type's, module's or file's name that say nothing of what it is.
const EMPTY_NAMES: [&str; 9] =
    ["common", "dto", "entity", "helper", "helpers", "manager", "misc", "util", "utils"];

#[test]
fn crates_use_only_what_the_import_table_grants() {
    assert_clean("dependency not in the import table", &forbidden_edges(&metadata()));
}

#[test]
fn a_forbidden_edge_is_found() {
    let package = |name, dependencies| json!({"name": name, "dependencies": dependencies});
    let edge = |name| json!({"name": name, "kind": null, "optional": false, "features": []});
    let metadata = json!({"packages": [
        package("gateway", json!([edge("storage"), edge("region"), edge("tokio")])),
        package("domain", json!([edge("uuid"), edge("tokio")])),
        package("seal", json!([
            {"name": "wuling-proto", "kind": null, "optional": false, "features": ["rpc"]},
            {"name": "tokio", "kind": "dev", "optional": false, "features": []},
        ])),
        package("wuling-proto", json!([edge("tonic"), edge("domain")])),
        package("xtask", json!([edge("domain")])),
        package("newcomer", json!([])),
    ]});
    assert_eq!(
        forbidden_edges(&metadata),
        [
            "gateway -> region",
            "domain -> tokio",
            "seal -> wuling-proto with `rpc`",
            "wuling-proto -> tonic outside `rpc`",
            "xtask -> domain",
            "newcomer has no row",
        ]
    );
}

fn forbidden_edges(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some(row) = IMPORTS.iter().find(|row| row.name == name) else {
            found.push(format!("{name} has no row"));
            continue;
        };
        for edge in list(&package["dependencies"]).iter().filter(|edge| edge["kind"].is_null()) {
            let used = text(&edge["name"]);
            let is_ours = IMPORTS.iter().any(|row| row.name == used);
            if (is_ours && !row.ours.contains(&used)) || row.never.contains(&used) {
                found.push(format!("{name} -> {used}"));
            }
            let with_rpc = list(&edge["features"]).iter().any(|feature| feature == "rpc");
            if (name, used, with_rpc) == ("seal", "wuling-proto", true) {
                found.push(format!("{name} -> {used} with `rpc`"));
            }
            if name == "wuling-proto" && used.starts_with("tonic") && edge["optional"] == false {
                found.push(format!("{name} -> {used} outside `rpc`"));
            }
        }
    }
    found
}

#[test]
fn the_runtime_uses_only_the_kernel_of_the_domain() {
    let mut found = Vec::new();
    for file in files_under("services/runtime/src") {
        let code = code_of(&file.text);
        for (at, _) in code.match_indices("domain::") {
            if !code[at..].starts_with("domain::kernel") {
                found.push(format!("{}:{}", file.path, line_of(&code, at)));
            }
        }
    }
    assert_clean("runtime beyond domain::kernel", &found);
}

#[test]
fn one_registry_and_one_cryptography_stack() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is readable");
    let crates_io = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut found: Vec<String> = lock
        .lines()
        .filter(|l| l.starts_with("source = ") && *l != crates_io)
        .map(str::to_owned)
        .collect();
    let tree = output(cargo().args([
        "tree",
        "--offline",
        "--workspace",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]));
    let banned = ["native-tls", "openssl", "openssl-sys", "ring"];
    found.extend(
        tree.lines()
            .filter(|line| line.split(' ').next().is_some_and(|name| banned.contains(&name)))
            .map(str::to_owned),
    );
    assert!(tree.contains("aws-lc-rs "), "cargo tree lists dependencies");
    assert_clean("foreign source or second cryptography stack", &found);
}

#[test]
fn every_crate_says_what_it_is_what_it_never_does_and_where_to_start() {
    let mut found = Vec::new();
    for package in list(&metadata()["packages"]) {
        let targets = list(&package["targets"]);
        let kind_is = |target: &Value, kind: &str| list(&target["kind"]).iter().any(|k| k == kind);
        let top = targets
            .iter()
            .find(|target| kind_is(target, "lib"))
            .or_else(|| targets.iter().find(|target| kind_is(target, "bin")))
            .map(|target| text(&target["src_path"]))
            .expect("a package has a library or a program");
        let source = std::fs::read_to_string(top).expect("cargo names files that exist");
        let head: String = source.lines().take_while(|line| line.starts_with("//!")).collect();
        for mark in ["*Is*", "*Never*", "*Start at*"] {
            if !head.contains(mark) {
                found.push(format!("{} lacks {mark}", text(&package["name"])));
            }
        }
    }
    assert_clean("crate documentation", &found);
}

#[test]
fn files_and_functions_fit_on_a_few_screens() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".rs")) {
        let in_tests = file.path.starts_with("tests/") || file.path.contains("/tests/");
        let lines = file.text.lines().count();
        if lines > if in_tests { FILE_LINES_MAX_IN_TESTS } else { FILE_LINES_MAX } {
            found.push(format!("{}: {lines} lines", file.path));
        }
        found.extend(long_functions(file, in_tests));
    }
    assert_clean("too long", &found);
}

#[test]
fn a_long_function_is_found_whatever_its_literals_hold() {
    let body = "    g('{', '\\'', \"}}\", r#\"\"}\"#); // }\n".repeat(FUNCTION_LINES_MAX - 1);
    let source = format!(
        "fn short<'a>(x: [u8; 2]) -> &'a str {{}}\ntrait T {{ fn none(); }}\nfn long() {{\n{body}}}\n"
    );
    let file = File { path: "x.rs".into(), text: source };
    assert_eq!(long_functions(&file, false), ["x.rs:3: `long` has 71 lines"]);
    assert!(long_functions(&file, true).is_empty());
}

fn long_functions(file: &File, in_tests: bool) -> Vec<String> {
    let code = code_of(&file.text);
    let tests_from = if in_tests { 0 } else { code.find("mod tests {").unwrap_or(code.len()) };
    let mut found = Vec::new();
    for (at, name) in declarations(&code, "fn ") {
        let Some(length) = body_end(&code[at..]) else { continue };
        let lines = code[at..at + length].lines().count();
        let lines_max =
            if at < tests_from { FUNCTION_LINES_MAX } else { FUNCTION_LINES_MAX_IN_TESTS };
        if lines > lines_max {
            found.push(format!("{}:{}: `{name}` has {lines} lines", file.path, line_of(&code, at)));
        }
    }
    found
}

/// Where the function that begins here ends; `None` when it has no body.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(at + 1),
            b'}' => braces -= 1,
            b';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn one_word_is_used_for_one_thing() {
    let mut found = Vec::new();
    for file in files_of_words() {
        found.extend(synonyms_in(&file));
    }
    assert_clean("word the glossary has another for", &found);
    let file = File {
        path: "x.proto".into(),
        text: "// Each tenant.\nmessage MessageHubState {}\n".into(),
    };
    assert_eq!(synonyms_in(&file), ["x.proto:1: tenant (region)", "x.proto:2: hub (gateway)"]);
}

fn synonyms_in(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        for word in words(line) {
            if let Some((bad, good)) = SYNONYMS.iter().find(|(bad, _)| *bad == word) {
                found.push(format!("{}:{number}: {bad} ({good})", file.path));
            }
        }
    }
    found
}

#[test]
fn names_say_what_a_thing_is() {
    let mut found = Vec::new();
    for file in files_of_words() {
        found.extend(empty_names_in(&file));
    }
    assert_clean("empty name", &found);
    let code = "mod http_utils;\nstruct RegionManager;\nenum Manageable {}\n";
    let file = File { path: "src/patrol_dto.rs".into(), text: code.into() };
    assert_eq!(
        empty_names_in(&file),
        ["src/patrol_dto.rs", "src/patrol_dto.rs: RegionManager", "src/patrol_dto.rs: http_utils"]
    );
}

fn empty_names_in(file: &File) -> Vec<String> {
    let is_empty = |name: &str| words(name).iter().any(|word| EMPTY_NAMES.contains(&word.as_str()));
    let stem = file.path.rsplit('/').next().unwrap_or_default();
    let mut found = Vec::new();
    if is_empty(stem) {
        found.push(file.path.clone());
    }
    let code = code_of(&file.text);
    for keyword in ["struct ", "enum ", "trait ", "type ", "message ", "mod "] {
        for (_, name) in declarations(&code, keyword) {
            if is_empty(name) {
                found.push(format!("{}: {name}", file.path));
            }
        }
    }
    found
}

#[test]
fn nothing_is_left_undone_without_an_owner() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| !file.path.ends_with(".md")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            // Put together here, so that this file passes.
            for marker in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
                let owned = format!("{marker}(");
                if line.contains(marker) && !line.contains(&owned) {
                    found.push(format!("{}:{number}", file.path));
                }
            }
        }
    }
    assert_clean("mark without an owner", &found);
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let folders = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
    ];
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in (1..).zip(file.text.lines()) {
            if folders.iter().any(|folder| line.contains(folder)) {
                found.push(format!("{}:{number}", file.path));
            }
        }
    }
    assert_clean("machine path", &found);
}

#[test]
fn a_merged_migration_is_never_edited() {
    // Without git, or without main, there is nothing to compare.
    let merged = |path: &str| ["origin/main", "main"].iter().find_map(|on| shown(on, path));
    assert_clean(
        "merged migration edited; write a new one",
        &edited(files_under("services/storage/migrations"), merged),
    );
    let file = |path: &str| File { path: path.into(), text: "CREATE".into() };
    let merged = |path: &str| (path != "new.sql").then(|| path.to_owned());
    assert_eq!(edited(vec![file("CREATE"), file("old.sql"), file("new.sql")], merged), ["old.sql"]);
}

fn edited(files: Vec<File>, merged: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let differs = |file: &File| merged(&file.path).is_some_and(|merged| merged != file.text);
    files.into_iter().filter(differs).map(|file| file.path).collect()
}

/// The file as it is on a branch.
fn shown(branch: &str, path: &str) -> Option<String> {
    let object = format!("{branch}:{path}");
    let shown = Command::new("git").current_dir(root()).args(["show", &object]).output().ok()?;
    if shown.status.success() { String::from_utf8(shown.stdout).ok() } else { None }
}

#[test]
fn the_sample_configurations_are_toml() {
    let samples = files_under("deploy/samples");
    let mut found = Vec::new();
    for name in ["region.toml", "gateway.toml"] {
        if !samples.iter().any(|file| file.path == format!("deploy/samples/{name}")) {
            found.push(format!("{name} is missing"));
        }
    }
    for file in samples.iter().filter(|file| file.path.ends_with(".toml")) {
        if let Err(error) = file.text.parse::<toml::Table>() {
            found.push(format!("{}: {error}", file.path));
        }
    }
    assert_clean("sample configuration", &found);
}

#[test]
fn the_readme_is_short_and_its_commands_are_the_ones_that_run() {
    let read =
        |name| std::fs::read_to_string(root().join(name)).expect("README.md and .ci/run exist");
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let lines = readme.lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines");
    let tests = ci.lines().last().expect(".ci/run ends in its command");
    assert!(readme.contains(tests), "README.md lacks `{tests}`, which is what .ci/run runs");
    let demo = ["cargo xtask demo", "wuling -- demo"];
    assert!(
        demo.iter().any(|demo| readme.contains(demo)),
        "README.md lacks the command of the demo"
    );
}

#[test]
fn the_top_of_the_tree_stays_as_designed() {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root()).expect("the root is readable") {
        let name = entry.expect("the root is readable").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP.contains(&name.as_str()) {
            found.push(name);
        }
    }
    assert_clean("entry at the top", &found);
}

/// A text file of ours.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// Every text file of ours, generated ones and the lock file left out.
fn files() -> Vec<File> {
    files_under("")
}

fn files_under(folder: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if [".git", "Cargo.lock", "gen", "node_modules", "target"].contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path =
                    path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The files whose words are checked; this one lists the bad ones.
fn files_of_words() -> Vec<File> {
    let ours = |path: &str| [".rs", ".proto", ".sql"].iter().any(|end| path.ends_with(end));
    files().into_iter().filter(|file| ours(&file.path) && file.path != "tests/it/tidy.rs").collect()
}

/// The lower-case words of a text, identifiers taken apart.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in text.chars() {
        if !letter.is_ascii_alphabetic()
            || (letter.is_ascii_uppercase() && before.is_ascii_lowercase())
        {
            words.push(String::new());
        }
        if letter.is_ascii_alphabetic() {
            words.last_mut().expect("there is a first word").push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Where a keyword stands before a name, and the name.
fn declarations<'a>(code: &'a str, keyword: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let in_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(keyword).filter_map(move |(at, _)| {
        let rest = &code[at + keyword.len()..];
        let name = &rest[..rest.find(|letter| !in_name(letter)).unwrap_or(rest.len())];
        (!name.is_empty() && !code[..at].ends_with(in_name)).then_some((at, name))
    })
}

/// The source with comments and literals blanked, its lines kept: what is left is code.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let blank = blank_length(rest);
        let taken = blank.unwrap_or(first.len_utf8());
        let (now, later) = rest.split_at(taken);
        match blank {
            Some(_) => code.extend(now.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None => code.push(first),
        }
        rest = later;
    }
    code
}

/// The length of the comment or literal that begins here, where one does.
fn blank_length(rest: &str) -> Option<usize> {
    let until = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |found| from + found + end.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until("*/", 2));
    }
    if let Some(raw) = rest.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        return raw[hashes..]
            .starts_with('"')
            .then(|| until(&format!("\"{}", "#".repeat(hashes)), hashes + 2));
    }
    let is_char = || {
        let mut letters = rest.chars().skip(1);
        letters.next() == Some('\\') || letters.next() == Some('\'')
    };
    let quote = match rest.chars().next() {
        Some('"') => '"',
        Some('\'') if is_char() => '\'',
        _ => return None,
    };
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn metadata() -> Value {
    let printed =
        output(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--offline"]));
    serde_json::from_str(&printed).expect("cargo metadata prints JSON")
}

fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn every_test_that_the_table_of_promises_names_is_there() {
    let table = std::fs::read_to_string(root().join("tests/promises.md")).unwrap();
    let mut missing = Vec::new();
    let mut named = 0;
    for quoted in table.split('`').skip(1).step_by(2) {
        let Some((file, test)) = quoted.split_once(".rs::") else { continue };
        named += 1;
        let text = std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
        if !text.contains(&format!("fn {test}()")) {
            missing.push(quoted.to_owned());
        }
    }
    assert!(named > 20, "only {named} tests are named: is the table still read?");
    assert_clean("promises without their tests", &missing);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies below the root").into()
}

#[track_caller]
fn assert_clean(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}
