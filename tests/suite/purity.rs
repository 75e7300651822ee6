//! Who may know whom, and who may touch the world, read off the sources' own paths; and how long a file may be.
//!
//! Comments, texts and tests are taken out first. What is left is looked through for paths: `crate::x` and
//! `super::x` say which part is used, `std::fs` and its like say that the world is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most lines of a file without its tests.
const FILE_LINES_MAX: usize = 500;

/// Parts that touch nothing: same input, same output.
const PURE: &[&str] =
    &["core", "config", "expr", "operator", "model", "eval", "codec", "sim", "registry", "units", "error"];

/// Beyond the pure parts: the simulated plant is one too, except for the source that waits for its clock.
const PURE_FILES: &[&str] = &["source/simulate/"];
const NOT_PURE_FILES: &[&str] = &["source/simulate/source.rs"];

/// What pure code may not name, and what it would be.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "an executor"),
    ("tokio_stream", "an executor"),
    ("std::time::Instant", "a clock"),
    ("std::time::SystemTime", "a clock"),
    ("Instant::now", "a clock"),
    ("SystemTime::now", "a clock"),
    ("UNIX_EPOCH", "a clock"),
    ("Utc::now", "a clock"),
    ("Local::now", "a clock"),
    ("crate::clock", "a clock"),
    ("std::fs", "a file"),
    ("File::open", "a file"),
    ("std::net", "a socket"),
    ("std::thread", "a thread"),
    ("thread::spawn", "a thread"),
    ("std::process", "a process"),
    ("std::env", "the environment"),
    ("std::io::stdin", "a terminal"),
    ("std::io::stdout", "a terminal"),
    ("std::io::stderr", "a terminal"),
    ("println!", "a terminal"),
    ("eprintln!", "a terminal"),
    ("print!", "a terminal"),
    ("dbg!", "a terminal"),
    ("static mut", "a global"),
    ("thread_local!", "a global"),
    ("rand::", "a random source"),
    ("getrandom", "a random source"),
    ("Uuid::new_v4", "a random source"),
    ("RandomState", "a random source"),
];

/// Which parts of the crate each part may use. What is not named here may be used by nobody but itself.
const MAY_USE: &[(&str, &[&str])] = &[
    // Run before the program is built.
    ("build", &[]),
    ("error", &[]),
    ("units", &["core", "error"]),
    ("core", &["error"]),
    ("registry", &["core", "error"]),
    ("config", &["registry", "core", "units", "error"]),
    ("model", &["core", "error"]),
    ("eval", &["model"]),
    ("codec", &["core", "error"]),
    ("expr", &["core", "error"]),
    ("operator", &["registry", "core", "model", "codec", "expr", "units", "error"]),
    ("clock", &["core"]),
    ("net", &["registry", "units", "error", "clock"]),
    ("source", &["registry", "core", "codec", "net", "clock", "units", "error"]),
    ("sink", &["registry", "core", "codec", "net", "clock", "units", "error"]),
    ("builtin", &["registry", "operator", "source", "sink"]),
    ("store", &["core", "error"]),
    ("sim", &["registry", "core", "codec", "store", "error"]),
    (
        "runtime",
        &["config", "builtin", "registry", "store", "core", "clock", "units", "net", "error", "source"],
    ),
];

/// Parts that may use everything below them: the way in.
const ON_TOP: &[&str] = &["cli", "embed", "lib", "main"];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    assert!(files.len() > 50, "the sources are not where they were");
    files
}

/// Whether a file holds nothing but tests.
fn is_test(name: &str) -> bool {
    let stem = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".rs");
    stem == "tests" || stem.ends_with("_tests") || name.contains("/tests/")
}

/// The text without comments, texts, characters and test modules; lines stay where they are.
fn code_of(source: &str) -> String {
    without_tests(&blanked(source))
}

/// Comments and what stands in quotes, blanked.
fn blanked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let length = skipped(rest, at > 0 && is_word(bytes[at - 1]));
        if length == 0 {
            let next = rest.chars().next().unwrap();
            code.push(next);
            at += next.len_utf8();
        } else {
            code.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    code
}

/// How many bytes at the start are a comment, a text or a character; 0 for code.
fn skipped(rest: &str, inside_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let plain = rest.trim_start_matches('b');
    let prefix = rest.len() - plain.len();
    if prefix <= 1 && !(inside_word && prefix == 1) {
        if plain.starts_with('"') {
            return prefix + quoted(plain);
        }
        if !inside_word && let Some(raw) = plain.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let begin = hashes + 1;
                let length = raw[begin..].find(&end).map_or(raw.len(), |found| begin + found + end.len());
                return prefix + 1 + length;
            }
        }
        if plain.starts_with('\'') {
            return character(plain).map_or(0, |length| prefix + length);
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character in quotes, or none where the quote begins a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        letters.next()?;
        return letters.find(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1);
    }
    letters.next().filter(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What stands under `#[cfg(test)]`, blanked: it may do what it likes.
fn without_tests(code: &str) -> String {
    let mut left = code.to_owned();
    while let Some(start) = left.find("#[cfg(test)]") {
        let length = item_length(&left[start..]);
        let blank: String = left[start..start + length]
            .chars()
            .map(|letter| if letter == '\n' { '\n' } else { ' ' })
            .collect();
        left.replace_range(start..start + length, &blank);
    }
    left
}

/// From an attribute to the end of its item: a semicolon or the brace that closes it.
fn item_length(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every path in the code, whole: the branches of a `use` one by one, `super` and `self` resolved.
fn paths(code: &str, module: &[&str]) -> BTreeSet<String> {
    let tokens = tokens(code);
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = is_name(tokens[at]) && (at == 0 || tokens[at - 1] != "::");
        if starts {
            let mut branch = Vec::new();
            at = walk(&tokens, at, &mut branch, module, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn walk<'a>(
    tokens: &[&'a str],
    mut at: usize,
    branch: &mut Vec<&'a str>,
    module: &[&str],
    found: &mut BTreeSet<String>,
) -> usize {
    let depth = branch.len();
    while at < tokens.len() && (is_name(tokens[at]) || tokens[at] == "*") {
        branch.push(tokens[at]);
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
        if tokens.get(at) == Some(&"{") {
            at += 1;
            while at < tokens.len() && tokens[at] != "}" {
                let before = at;
                at = walk(tokens, at, branch, module, found);
                if tokens.get(at) == Some(&"as") {
                    at += 2;
                }
                if tokens.get(at) == Some(&",") || at == before {
                    at += 1;
                }
            }
            branch.truncate(depth);
            return at + 1;
        }
    }
    if branch.len() > 1 {
        found.insert(resolved(branch, module).join("::"));
    }
    branch.truncate(depth);
    at
}

fn resolved<'a>(path: &[&'a str], module: &[&'a str]) -> Vec<&'a str> {
    let ups = path.iter().take_while(|part| **part == "super").count();
    if ups == 0 && path[0] != "self" {
        return path.to_vec();
    }
    let own = &module[..module.len().saturating_sub(ups)];
    let rest = path.iter().skip_while(|part| matches!(**part, "super" | "self"));
    std::iter::once("crate").chain(own.iter().copied()).chain(rest.copied()).collect()
}

fn is_name(token: &str) -> bool {
    token.as_bytes().first().is_some_and(|first| is_word(*first) && !first.is_ascii_digit())
}

fn tokens(code: &str) -> Vec<&str> {
    let bytes = code.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if is_word(bytes[at]) {
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
        } else if bytes[at..].starts_with(b"::") {
            at += 2;
        } else {
            at += 1;
            while !code.is_char_boundary(at) {
                at += 1;
            }
            if bytes[start].is_ascii_whitespace() {
                continue;
            }
        }
        tokens.push(&code[start..at]);
    }
    tokens
}

/// The module path of a file: `core/engine.rs` is `core`, `engine`.
fn module_of(name: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") || matches!(parts.as_slice(), ["lib" | "main"]) {
        parts.pop();
    }
    parts
}

fn part_of(name: &str) -> &str {
    name.trim_end_matches(".rs").split('/').next().unwrap_or(name)
}

fn is_pure(name: &str) -> bool {
    let listed = PURE.contains(&part_of(name)) || PURE_FILES.iter().any(|prefix| name.starts_with(prefix));
    listed && !NOT_PURE_FILES.contains(&name)
}

/// What pure code names and may not.
fn impurities(code: &str, module: &[&str]) -> Vec<String> {
    let paths = paths(code, module);
    let squeezed: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (name, what) in IMPURE {
        let as_path = paths.iter().any(|path| contains_path(path, name));
        if as_path || contains_words(&squeezed, name) {
            found.push(format!("`{name}` is {what}"));
        }
    }
    found
}

/// Whether a path goes through some names, whole: `std::fs` is in `std::fs::File`, not in `my_std::fs`.
fn contains_path(path: &str, name: &str) -> bool {
    format!("::{path}::").contains(&format!("::{}::", name.trim_end_matches(':')))
}

fn contains_words(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].bytes().next_back();
        let after = code[at + name.len()..].bytes().next();
        let begins = before.is_none_or(|byte| !is_word(byte));
        let ends =
            !name.ends_with(|last: char| last.is_alphanumeric()) || after.is_none_or(|byte| !is_word(byte));
        begins && ends
    })
}

/// What a part uses and may not.
fn strangers(name: &str, code: &str, parts: &BTreeSet<String>) -> Vec<String> {
    let own = part_of(name);
    if ON_TOP.contains(&own) {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(part, _)| *part == own) else {
        return vec![format!("`{own}` is in no list: say in MAY_USE what it may use")];
    };
    let used = paths(code, &module_of(name));
    let used = used.iter().filter_map(|path| path.strip_prefix("crate::")?.split("::").next());
    let used: BTreeSet<&str> = used.filter(|part| parts.contains(*part) && *part != own).collect();
    used.into_iter()
        .filter(|part| !allowed.contains(part))
        .map(|part| format!("it may not know `{part}`"))
        .collect()
}

#[test]
fn pure_folders_touch_nothing() {
    let mut wrong = Vec::new();
    for (name, source) in sources().iter().filter(|(name, _)| is_pure(name) && !is_test(name)) {
        let found = impurities(&code_of(source), &module_of(name));
        wrong.extend(found.into_iter().map(|what| format!("src/{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_part_knows_only_those_below_it() {
    let sources = sources();
    let parts: BTreeSet<String> = sources.iter().map(|(name, _)| part_of(name).to_owned()).collect();
    let mut wrong = Vec::new();
    for (name, source) in sources.iter().filter(|(name, _)| !is_test(name)) {
        let found = strangers(name, &code_of(source), &parts);
        wrong.extend(found.into_iter().map(|what| format!("src/{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_directions_have_no_circle() {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while let Some((part, _)) = MAY_USE
        .iter()
        .find(|(part, uses)| !done.contains(part) && uses.iter().all(|used| done.contains(used)))
    {
        done.insert(part);
    }
    let left: Vec<&str> = MAY_USE.iter().map(|(part, _)| *part).filter(|part| !done.contains(part)).collect();
    assert!(left.is_empty(), "these use one another in a circle: {left:?}");
}

#[test]
fn no_file_is_too_long_without_its_tests() {
    let mut wrong = Vec::new();
    let sources = sources();
    for (name, source) in sources.iter().filter(|(name, _)| !is_test(name)) {
        let tests = source.find("\n#[cfg(test)]").unwrap_or(source.len());
        let lines = source[..tests].lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("src/{name}: {lines} lines without tests, split it"));
        }
    }
    assert!(wrong.is_empty(), "more than {FILE_LINES_MAX}:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_is_planted_and_nothing_else() {
    let table: &[(&str, &[&str])] = &[
        ("fn f() { let t = std::time::Instant::now(); }", &["std::time::Instant", "Instant::now"]),
        ("use std::time::{Duration, Instant};", &["std::time::Instant"]),
        ("use std::{fs, time::Duration};", &["std::fs"]),
        ("use std::{collections::HashMap, sync::{Arc, Mutex}, thread};", &["std::thread"]),
        ("use std::time::Duration; // not std::time::Instant", &[]),
        ("/* std::fs /* nested */ std::net */ fn f() {}", &[]),
        ("fn f() -> &'static str { \"tokio::spawn and std::fs\" }", &[]),
        ("fn f() -> &'static str { r#\"Instant::now() \"quoted\" \"# }", &[]),
        ("fn f<'a>(x: &'a str) -> char { '\"' } fn g() { tokio::spawn(x) }", &["tokio"]),
        ("fn f() { a(b'\\'', b\"std::fs\\\"\", '\\u{1F600}'); std::env::var(x) }", &["std::env"]),
        ("#[cfg(test)]\nmod tests { use std::fs; fn f() { if x { y } } }\nfn g() {}", &[]),
        ("#[cfg(test)]\nmod tests;\nuse std::net::TcpStream;", &["std::net"]),
        ("static   mut COUNT: u64 = 0;", &["static mut"]),
        ("fn f() { println!(\"x\") }", &["println!"]),
        ("fn f() { my_println!(\"x\"); brand::new(); }", &[]),
        ("use std::collections::hash_map::RandomState as R;", &["RandomState"]),
        ("use crate::clock::Clock;", &["crate::clock"]),
        ("use super::super::clock;", &["crate::clock"]),
        ("use self::tokio_like::x; mod tokio_like;", &[]),
    ];
    for (source, expected) in table {
        let found = impurities(&code_of(source), &["core", "engine"]);
        let found: Vec<&str> = found.iter().filter_map(|text| text.split('`').nth(1)).collect();
        assert_eq!(&found, expected, "{source}");
    }
}

#[test]
fn the_check_sees_a_part_that_looks_up() {
    let parts: BTreeSet<String> = ["core", "runtime", "store", "sim", "registry"].map(str::to_owned).into();
    let table: &[(&str, &str, &[&str])] = &[
        ("core/engine.rs", "use crate::store::Log;", &["it may not know `store`"]),
        ("core/engine.rs", "use super::event::Now; use crate::core::Graph;", &[]),
        ("core/engine.rs", "fn f() { super::super::runtime::x() }", &["it may not know `runtime`"]),
        ("core/mod.rs", "use super::registry::X;", &["it may not know `registry`"]),
        (
            "sim/world.rs",
            "use crate::{core::Engine, runtime::{a, b}, store};",
            &["it may not know `runtime`"],
        ),
        ("sim/world.rs", "/// [`crate::runtime`]\nuse crate::store::{self, Log};", &[]),
        ("cli/run.rs", "use crate::runtime::x;", &[]),
        ("new/x.rs", "", &["`new` is in no list: say in MAY_USE what it may use"]),
    ];
    for (name, source, expected) in table {
        assert_eq!(&strangers(name, &code_of(source), &parts), expected, "{name}: {source}");
    }
}
