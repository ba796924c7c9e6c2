//! Goal: the contract keeps its own rules. Method: read the descriptor that the build carries, with its
//! comments and options, and collect every fault before failing, so that one run shows them all.

use domain::risk::CATEGORIES;
use prost::Message;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, Value};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every rpc of every service, as its path on the wire: `/package.Service/Method`.
pub(crate) fn methods() -> Vec<String> {
    let mut out = Vec::new();
    for file in files() {
        for service in &file.service {
            for method in &service.method {
                out.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    out
}

/// Names that would hold a person (DOMAIN 3.3), as whole words between underscores.
const REFUSED_WORDS: &[&str] = &[
    "id_card",
    "identity_no",
    "face",
    "license_plate",
    "licence_plate",
    "person_name",
    "party_name",
    "party_phone",
    "watch_list",
    "watchlist",
    "suspect",
    "citizen_score",
    "post_text",
];

/// How the name of a number ends, and the word in its comment that says the same.
const UNITS: &[(&str, &str)] = &[
    ("_ms", "milliseconds"),
    ("_s", "seconds"),
    ("_m", "metres"),
    ("_pct", "percent"),
    ("_e7", "1e-7"),
];

#[test]
fn every_field_names_a_privacy_class() {
    let pool = pool();
    let class =
        pool.get_extension_by_name("wuling.kernel.v1.privacy").expect("privacy.proto has it");
    assert_eq!(class.number(), 50_001);
    let mut checked = 0;
    let mut faults = Vec::new();
    for field in fields(&pool) {
        checked += 1;
        match field.options().get_extension(&class).as_ref() {
            Value::EnumNumber(1..) => {}
            _ => faults.push(format!("{} names no privacy class", field.full_name())),
        }
    }
    assert!(checked > 200, "only {checked} fields were found");
    check(faults);
}

#[test]
fn everything_in_the_contract_has_a_comment() {
    let files = files();
    assert!(files.iter().flat_map(elements).count() > 500, "the walk misses most of the contract");
    check(files.iter().flat_map(comment_faults));
}

#[test]
fn the_contract_is_laid_out_as_buf_asks() {
    let files = files();
    assert!(files.len() >= 7, "only {} files were found", files.len());
    check(files.iter().flat_map(layout_faults));
    check(import_cycle_faults(&files));
}

#[test]
fn a_request_and_a_response_belong_to_one_rpc() {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files() {
        for method in file.service.iter().flat_map(|service| &service.method) {
            for message in [method.input_type(), method.output_type()] {
                users.entry(message.to_owned()).or_default().push(method.name().to_owned());
            }
        }
    }
    users.retain(|_, methods| methods.len() > 1);
    assert_eq!(users, BTreeMap::new());
}

#[test]
fn the_layout_check_finds_what_it_is_for() {
    let bad = FileDescriptorProto {
        name: Some("wuling/odd/v1/odd.proto".into()),
        package: Some("wuling.odd".into()),
        syntax: None,
        dependency: vec!["wuling/kernel/v1/record.proto".into()],
        public_dependency: vec![0],
        enum_type: vec![EnumDescriptorProto {
            name: Some("Colour".into()),
            value: vec![prost_types::EnumValueDescriptorProto {
                name: Some("RED".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        message_type: vec![DescriptorProto {
            name: Some("odd_message".into()),
            field: vec![prost_types::FieldDescriptorProto {
                name: Some("oddField".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Odd".into()),
            method: vec![prost_types::MethodDescriptorProto {
                name: Some("Get".into()),
                input_type: Some(".wuling.odd.odd_message".into()),
                output_type: Some(".wuling.odd.odd_message".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(layout_faults(&bad).len(), 11, "{:#?}", layout_faults(&bad));
    // Message, field, enum, value, service, rpc.
    assert_eq!(comment_faults(&bad).len(), 6, "{:#?}", comment_faults(&bad));
}

#[test]
fn packages_that_need_each_other_are_found() {
    let file = |package: &str, needed: &str| FileDescriptorProto {
        package: Some(format!("wuling.{package}.v1")),
        dependency: vec![format!("wuling/{needed}/v1/any.proto")],
        ..Default::default()
    };
    let mut files = vec![file("a", "b"), file("b", "c"), file("c", "c")];
    assert_eq!(import_cycle_faults(&files), [""; 0]);
    files.push(file("c", "a"));
    assert_eq!(import_cycle_faults(&files).len(), 3);
}

#[test]
fn no_name_in_the_contract_would_hold_a_person() {
    let names = files().iter().flat_map(elements).map(|element| element.place).collect::<Vec<_>>();
    check(refused_faults("the contract", &names));
}

#[test]
fn no_column_would_hold_a_person() {
    let files = sources(&root().join("services/storage/migrations"), "sql");
    assert!(!files.is_empty(), "no migration was found");
    for (path, text) in files {
        check(refused_faults(&path.display().to_string(), &identifiers(&text, "--")));
    }
}

#[test]
fn no_json_key_would_hold_a_person() {
    let mut files = sources(&root().join("services"), "rs");
    files.extend(sources(&root().join("gateway"), "rs"));
    files.retain(|(_, text)| text.contains("Serialize") || text.contains("json!"));
    for (path, text) in files {
        check(refused_faults(&path.display().to_string(), &identifiers(&text, "//")));
    }
}

#[test]
fn each_refused_word_turns_the_check_red() {
    for word in REFUSED_WORDS {
        let mut camel = String::new();
        for part in word.split('_') {
            camel.push_str(&part[..1].to_uppercase());
            camel.push_str(&part[1..]);
        }
        let column = format!("CREATE TABLE t (\n  {word} TEXT NOT NULL -- why\n);");
        let field = format!("#[derive(Serialize)]\nstruct S {{ the_{word}_hash: String }}");
        let key = format!("json!({{\"{word}\": 1}})");
        for names in [
            vec![(*word).to_owned()],
            vec![format!("{word}_sha256")],
            vec![format!("wuling.patrol.v1.Patrol.some_{word}")],
            vec![camel.clone(), format!("The{camel}Thing")],
            identifiers(&column, "--"),
            identifiers(&field, "//"),
            identifiers(&key, "//"),
        ] {
            assert!(!refused_faults("fixture", &names).is_empty(), "{word} passes as {names:?}");
        }
    }
    for fine in ["surface", "interface_id", "party", "post", "record_text", "identity", "plate"] {
        assert_eq!(refused_word(fine), None, "{fine}");
    }
}

#[test]
fn a_number_ends_in_the_unit_that_its_comment_states() {
    let numbers: BTreeSet<String> = fields(&pool())
        .filter(|field| {
            !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Enum(_))
        })
        .map(|field| field.full_name().to_owned())
        .collect();
    let files = files();
    let all = files.iter().flat_map(elements).filter(|element| numbers.contains(&element.place));
    check(all.flat_map(|element| unit_faults(&element.place, &element.comment)));
}

#[test]
fn the_unit_check_finds_a_unit_that_is_missing_on_either_side() {
    assert_eq!(unit_faults("x.length", "Length in metres.").len(), 1);
    assert_eq!(unit_faults("x.wait_ms", "Waits so long.").len(), 1);
    assert_eq!(unit_faults("x.wait_s", "Waits so many milliseconds.").len(), 2);
    assert!(unit_faults("x.wait_ms", "Waits so many milliseconds.").is_empty());
}

#[test]
fn the_contract_lists_every_category_where_its_domain_stands() {
    let comments: BTreeMap<String, String> =
        files().iter().flat_map(elements).map(|element| (element.place, element.comment)).collect();
    check(CATEGORIES.iter().filter_map(|category| {
        let place = format!("wuling.risk.v1.EventDomain.EVENT_DOMAIN_{}", category.domain.name());
        let mut words = comments[&place].split([' ', ',', '.', '\n']);
        (!words.any(|word| word == category.code))
            .then(|| format!("{place}: its comment does not list {}", category.code))
    }));
}

#[test]
fn every_service_has_methods_and_no_path_comes_twice() {
    let methods = methods();
    let paths: BTreeSet<&String> = methods.iter().collect();
    assert_eq!(paths.len(), methods.len());
    for service in ["Device", "Patrol", "Risk", "Directory", "Agreement", "Exchange"] {
        let part = format!(".v1.{service}Service/");
        assert!(methods.iter().any(|method| method.contains(&part)), "{service} has no method");
    }
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTOR).expect("the descriptor is whole")
}

fn fields(pool: &DescriptorPool) -> impl Iterator<Item = FieldDescriptor> + use<> {
    let ours = pool.all_messages().filter(|message| message.package_name().starts_with("wuling."));
    ours.flat_map(|message| message.fields().collect::<Vec<_>>()).collect::<Vec<_>>().into_iter()
}

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(proto::DESCRIPTOR).expect("the descriptor is whole");
    set.file.into_iter().filter(|file| file.name().starts_with("wuling/")).collect()
}

/// Something of the contract that has a name.
struct Element {
    /// Its full name.
    place: String,
    /// What is written above it.
    comment: String,
}

/// Everything in a file, with the numbers by which descriptor.proto finds its comment.
fn elements(file: &FileDescriptorProto) -> Vec<Element> {
    let comments: BTreeMap<Vec<i32>, String> = file
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .map(|location| (location.path.clone(), location.leading_comments().to_owned()))
        .collect();
    let mut out = Walk { comments, out: Vec::new() };
    let package = file.package();
    for (i, message) in file.message_type.iter().enumerate() {
        out.message(package, &[4, number(i)], message);
    }
    for (i, table) in file.enum_type.iter().enumerate() {
        out.table(package, &[5, number(i)], table);
    }
    for (i, service) in file.service.iter().enumerate() {
        let place = out.push(package, &[6, number(i)], service.name());
        for (j, method) in service.method.iter().enumerate() {
            out.push(&place, &[6, number(i), 2, number(j)], method.name());
        }
    }
    for (i, extension) in file.extension.iter().enumerate() {
        out.push(package, &[7, number(i)], extension.name());
    }
    out.out
}

struct Walk {
    comments: BTreeMap<Vec<i32>, String>,
    out: Vec<Element>,
}

impl Walk {
    fn push(&mut self, parent: &str, path: &[i32], name: &str) -> String {
        let place = format!("{parent}.{name}");
        let comment = self.comments.get(path).cloned().unwrap_or_default();
        self.out.push(Element { place: place.clone(), comment });
        place
    }

    fn message(&mut self, parent: &str, path: &[i32], message: &DescriptorProto) {
        let place = self.push(parent, path, message.name());
        for (i, field) in message.field.iter().enumerate() {
            self.push(&place, &[path, &[2, number(i)]].concat(), field.name());
        }
        for (i, nested) in message.nested_type.iter().enumerate() {
            self.message(&place, &[path, &[3, number(i)]].concat(), nested);
        }
        for (i, table) in message.enum_type.iter().enumerate() {
            self.table(&place, &[path, &[4, number(i)]].concat(), table);
        }
        for (i, oneof) in message.oneof_decl.iter().enumerate() {
            // An `optional` field makes a oneof of its own that nobody wrote.
            if !oneof.name().starts_with('_') {
                self.push(&place, &[path, &[8, number(i)]].concat(), oneof.name());
            }
        }
    }

    fn table(&mut self, parent: &str, path: &[i32], table: &EnumDescriptorProto) {
        let place = self.push(parent, path, table.name());
        for (i, value) in table.value.iter().enumerate() {
            self.push(&place, &[path, &[2, number(i)]].concat(), value.name());
        }
    }
}

fn number(index: usize) -> i32 {
    i32::try_from(index).expect("no file holds so many")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_owned()
}

fn sources(dir: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            out.extend(sources(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = std::fs::read_to_string(&path).expect("the file is text");
            out.push((path, text));
        }
    }
    out
}

/// The names in a source text, without its comments.
fn identifiers(text: &str, comment: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split(comment).next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

fn check(faults: impl IntoIterator<Item = String>) {
    let faults: Vec<String> = faults.into_iter().collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn comment_faults(file: &FileDescriptorProto) -> Vec<String> {
    let bare = elements(file).into_iter().filter(|element| element.comment.trim().is_empty());
    bare.map(|element| format!("{} has no comment", element.place)).collect()
}

fn refused_faults(place: &str, names: &[String]) -> Vec<String> {
    let fault = |name: &String| Some(format!("{place}: {name} holds {}", refused_word(name)?));
    names.iter().filter_map(fault).collect()
}

fn refused_word(name: &str) -> Option<&'static str> {
    // Dots part the names of a path, so each stands for itself.
    let parts: Vec<String> = name.split('.').map(|part| format!("_{}_", snake(part))).collect();
    let held = |word: &&&str| parts.iter().any(|part| part.contains(&format!("_{word}_")));
    REFUSED_WORDS.iter().find(held).copied()
}

fn unit_faults(name: &str, comment: &str) -> Vec<String> {
    let comment = comment.to_lowercase();
    let words: BTreeSet<&str> =
        comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    let mut faults = Vec::new();
    for (suffix, word) in UNITS {
        match (name.ends_with(suffix), words.contains(word)) {
            (true, false) => faults.push(format!("{name}: its comment does not say {word}")),
            (false, true) => faults.push(format!("{name}: says {word}, does not end in {suffix}")),
            _ => {}
        }
    }
    faults
}

fn layout_faults(file: &FileDescriptorProto) -> Vec<String> {
    let mut faults = Vec::new();
    let place = file.name();
    let mut want = |holds: bool, what: String| {
        if !holds {
            faults.push(format!("{place}: {what}"));
        }
    };
    let (folder, base) = place.rsplit_once('/').unwrap_or(("", place));
    let package = file.package();
    want(folder == package.replace('.', "/"), format!("package {package} is not its folder"));
    let version = package.rsplit_once(".v").and_then(|(_, version)| version.parse::<u32>().ok());
    want(version.is_some(), format!("package {package} has no version"));
    want(is_lower_snake(base.trim_end_matches(".proto")), "file name is not lower_snake".into());
    want(file.syntax() == "proto3", "is not proto3".into());
    want(file.public_dependency.is_empty(), "imports publicly".into());
    want(file.weak_dependency.is_empty(), "imports weakly".into());
    want(file.service.len() <= 1, "holds more than one service".into());
    for service in &file.service {
        let name = service.name();
        want(name.ends_with("Service") && is_pascal(name), format!("{name} is no …Service"));
        for method in &service.method {
            let name = method.name();
            want(is_pascal(name), format!("rpc {name} is not PascalCase"));
            let request = format!(".{package}.{name}Request");
            want(method.input_type() == request, format!("rpc {name} does not take {request}"));
            let response = format!(".{package}.{name}Response");
            want(method.output_type() == response, format!("rpc {name} does not give {response}"));
        }
    }
    for table in &file.enum_type {
        table_faults(table, &mut want);
    }
    for message in &file.message_type {
        message_faults(message, &mut want);
    }
    faults
}

fn message_faults(message: &DescriptorProto, want: &mut impl FnMut(bool, String)) {
    let name = message.name();
    want(is_pascal(name), format!("message {name} is not PascalCase"));
    for field in &message.field {
        want(is_lower_snake(field.name()), format!("{name}.{} is not lower_snake", field.name()));
    }
    for oneof in message.oneof_decl.iter().filter(|oneof| !oneof.name().starts_with('_')) {
        want(is_lower_snake(oneof.name()), format!("{name}.{} is not lower_snake", oneof.name()));
    }
    for table in &message.enum_type {
        table_faults(table, want);
    }
    for nested in &message.nested_type {
        message_faults(nested, want);
    }
}

fn table_faults(table: &EnumDescriptorProto, want: &mut impl FnMut(bool, String)) {
    let name = table.name();
    want(is_pascal(name), format!("enum {name} is not PascalCase"));
    let prefix = format!("{}_", snake(name).to_uppercase());
    for value in &table.value {
        let fits =
            value.name().starts_with(&prefix) && is_lower_snake(&value.name().to_lowercase());
        want(fits, format!("{} does not begin with {prefix}", value.name()));
    }
    let zero = table.value.iter().find(|value| value.number() == 0).map(|value| value.name());
    let unspecified = format!("{prefix}UNSPECIFIED");
    want(zero == Some(&unspecified), format!("enum {name} has no {unspecified} = 0"));
    let aliases = table.options.as_ref().is_some_and(|options| options.allow_alias());
    want(!aliases, format!("enum {name} allows aliases"));
}

/// Packages that need each other could never be released or read apart.
fn import_cycle_faults(files: &[FileDescriptorProto]) -> Vec<String> {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let needed = needs.entry(file.package().to_owned()).or_default();
        let imports = file.dependency.iter().filter(|import| import.starts_with("wuling/"));
        let packages =
            imports.filter_map(|import| Some(import.rsplit_once('/')?.0.replace('/', ".")));
        needed.extend(packages.filter(|package| package != file.package()));
    }
    // Packages whose needs are all met are taken away; what stays is a cycle or rests on one.
    while let Some(free) = needs.iter().find(|(_, needed)| needed.is_empty()) {
        let free = free.0.clone();
        needs.remove(&free);
        for needed in needs.values_mut() {
            needed.remove(&free);
        }
    }
    needs
        .into_iter()
        .map(|(package, needed)| format!("{package} and {needed:?} need each other"))
        .collect()
}

fn is_lower_snake(name: &str) -> bool {
    name.split('_').all(|part| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    }) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        out.push(c.to_ascii_lowercase());
    }
    out
}
