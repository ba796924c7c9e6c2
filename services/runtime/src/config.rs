//! Reading a configuration file: every mistake at once, one line each, with file, line and key.

use serde::de::DeserializeOwned;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::de::{DeTable, DeValue};

/// The exit code of a process whose flags or configuration are wrong (`EX_USAGE`).
pub const EXIT_CODE: u8 = 64;

/// Every mistake in a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
}

/// Collects the mistakes that only the program can see, so that one run shows all of them.
#[derive(Debug, Default)]
pub struct Check {
    source: Option<Source>,
    mistakes: Vec<Mistake>,
}

/// A value that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    file: Option<PathBuf>,
    line: Option<usize>,
    key: Option<String>,
    what: String,
}

#[derive(Debug)]
struct Source {
    file: PathBuf,
    text: String,
}

/// Reads a TOML file into `T`, and gives what further mistakes are collected in.
///
/// # Errors
/// When the file cannot be read, is no TOML (all places are told) or does not fit `T` (the first
/// misfit is told: a value of a wrong type hides what would come after it).
pub fn load<T: DeserializeOwned>(file: &Path) -> Result<(T, Check), ConfigError> {
    let mistake = |line, key, what| Mistake { file: Some(file.to_owned()), line, key, what };
    let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
        mistakes: vec![mistake(None, None, format!("cannot be read: {error}"))],
    })?;
    let told = |error: &toml::de::Error| {
        let line = error.span().map(|span| line_at(&text, span.start));
        mistake(line, key_of(error), one_line(error.message()))
    };
    let (_, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return Err(ConfigError { mistakes: errors.iter().map(told).collect() });
    }
    match toml::from_str(&text) {
        Ok(config) => {
            let source = Source { file: file.to_owned(), text };
            Ok((config, Check { source: Some(source), mistakes: Vec::new() }))
        }
        Err(error) => Err(ConfigError { mistakes: vec![told(&error)] }),
    }
}

impl Check {
    /// Notes that `key` (dotted, elements of lists by number from 0) holds something wrong.
    pub fn mistake(&mut self, key: &str, what: impl fmt::Display) {
        let source = self.source.as_ref();
        self.mistakes.push(Mistake {
            file: source.map(|source| source.file.clone()),
            line: source.and_then(|source| line_of_key(&source.text, key)),
            key: Some(key.to_owned()),
            what: one_line(&what.to_string()),
        });
    }

    /// Parses the text of `key`, noting the mistake when it cannot be parsed.
    pub fn parsed<T>(&mut self, key: &str, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        text.parse().map_err(|error| self.mistake(key, format_args!("`{text}`: {error}"))).ok()
    }

    /// Ends the check.
    ///
    /// # Errors
    /// When mistakes were noted.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(ConfigError { mistakes: self.mistakes }) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.mistakes.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl<T> Secret<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for where it is used.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl Secret<String> {
    /// Reads a secret from its file, without the line end that editors add.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(file: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(file)?;
        Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The key an error of the parser belongs to. The parser tells it only in its text without input.
fn key_of(error: &toml::de::Error) -> Option<String> {
    let mut bare = error.clone();
    bare.set_input(None);
    let text = bare.to_string();
    let key = text.lines().last()?.strip_prefix("in `")?.strip_suffix('`')?;
    Some(key.to_owned())
}

/// Where `key` stands, or the nearest table above it where it is left out.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = Some(root.get_ref());
    let mut list = None;
    let mut line = None;
    for part in key.split('.') {
        let value = if let Some(table) = table {
            let Some((name, value)) = table.iter().find(|(name, _)| *name.get_ref() == part) else {
                break;
            };
            line = Some(line_at(text, name.span().start));
            value
        } else if let Some(list) = list {
            let list: &toml::de::DeArray<'_> = list;
            let Some(value) = part.parse().ok().and_then(|at: usize| list.get(at)) else { break };
            line = Some(line_at(text, value.span().start));
            value
        } else {
            break;
        };
        (table, list) = match value.get_ref() {
            DeValue::Table(inner) => (Some(inner), None),
            DeValue::Array(inner) => (None, Some(inner)),
            _ => (None, None),
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::net::SocketAddr;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        listen: String,
        #[serde(default)]
        region: Vec<Region>,
        limits: Option<Limits>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Region {
        endpoint: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        peers_max: u32,
    }

    /// What `load` and a check of all addresses say, with the folder cut off.
    fn check(text: &str) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("region.toml");
        std::fs::write(&file, text).expect("written");
        let outcome = load::<Example>(&file).and_then(|(example, mut check)| {
            let _listen: Option<SocketAddr> = check.parsed("listen", &example.listen);
            for (at, region) in example.region.iter().enumerate() {
                let key = format!("region.{at}.endpoint");
                let _endpoint: Option<SocketAddr> = check.parsed(&key, &region.endpoint);
            }
            if example.limits.is_some_and(|limits| limits.peers_max == 0) {
                check.mistake("limits.peers_max", "must be 1 or more");
            }
            check.finish()
        });
        let said = outcome.map_or_else(|error| error.to_string(), |()| "good".to_owned());
        said.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn a_good_file_loads() {
        assert_eq!(check("listen = \"127.0.0.1:7443\"\n[limits]\npeers_max = 4\n"), "good");
    }

    #[test]
    fn every_semantic_mistake_is_told_with_its_line() {
        let text = "# A region.\nlisten = \"here\"\n\n[[region]]\nendpoint = \"127.0.0.1:1\"\n\
                    [[region]]\nendpoint = \"there\"\n[limits]\npeers_max = 0\n";
        let said = check(text);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[0].starts_with("region.toml:2: listen: `here`: "), "{said}");
        assert!(lines[1].starts_with("region.toml:7: region.1.endpoint: `there`: "), "{said}");
        assert_eq!(lines[2], "region.toml:9: limits.peers_max: must be 1 or more");
    }

    #[test]
    fn what_is_no_toml_is_told_place_by_place() {
        let said = check("listen = \nlimits = {\npeers_max = = 4\n");
        let lines: Vec<_> = said.lines().collect();
        assert!(lines.len() >= 2, "{said}");
        assert!(lines.iter().all(|line| line.starts_with("region.toml:")), "{said}");
    }

    #[test]
    fn a_misfit_is_told_with_its_key() {
        for (text, start) in [
            ("listen = 7443\n", "region.toml:1: listen: invalid type"),
            ("listen = \"a\"\n[limits]\npeers_max = -1\n", "region.toml:3: limits.peers_max: "),
            ("listen = \"a\"\nport = 1\n", "region.toml:2: unknown field `port`"),
            ("", "region.toml:1: missing field `listen`"),
        ] {
            let said = check(text);
            assert!(said.starts_with(start), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn a_missing_file_is_one_line() {
        let error = load::<Example>(Path::new("/nowhere/region.toml")).expect_err("missing");
        let said = error.to_string();
        assert!(said.starts_with("/nowhere/region.toml: cannot be read: "), "{said}");
    }

    #[test]
    fn a_secret_never_shows() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, "open sesame\n").expect("written");
        let secret = Secret::read(&file).expect("read");
        assert_eq!(secret.expose(), "open sesame");
        assert_eq!(format!("{secret:?}"), "[redacted]");
    }
}
