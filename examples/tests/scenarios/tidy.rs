//! The rules of CONTRIBUTING.md that a test can read off the source.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The longest a file may be, tests included; beyond, a reader would rather see it split.
const LINES_MAX: usize = 600;
const CRATES: [&str; 4] = ["orchestra-core", "orchestra-store", "orchestra-runtime", "orchestra-net"];
const EXAMPLE_LINES_MAX: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.expect("an entry of a directory that was just listed").path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => dirs.push(path),
                Some("rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<PathBuf> {
    let crates = CRATES.iter().flat_map(|name| {
        ["src", "tests", "benches"].into_iter().flat_map(move |part| rust_files(&root().join(name).join(part)))
    });
    crates.chain(rust_files(&root().join("examples"))).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn no_file_is_longer_than_a_reader_likes() {
    let long: Vec<_> = sources()
        .iter()
        .map(|path| (relative(path), read(path).lines().count()))
        .filter(|(name, lines)| {
            let example = name.starts_with("examples/") && !name.starts_with("examples/tests");
            *lines > if example { EXAMPLE_LINES_MAX } else { LINES_MAX }
        })
        .collect();
    assert!(long.is_empty(), "too long: {long:#?}");
}

#[test]
fn modules_import_only_what_is_declared_before_them() {
    let mut backwards = Vec::new();
    for name in CRATES {
        let src = root().join(name).join("src");
        let order = declared_modules(&read(&src.join("lib.rs")));
        for path in rust_files(&src) {
            let within = path.strip_prefix(&src).expect("listed under it");
            let first = within.components().next().expect("a file has a name").as_os_str().to_string_lossy();
            let Some(&own) = order.get(first.trim_end_matches(".rs")) else { continue };
            for (number, line) in read(&path).lines().enumerate().take_while(|(_, line)| *line != "mod tests {") {
                let later = crate_paths(line).into_iter().find(|module| order.get(*module).is_some_and(|&at| at > own));
                if let Some(module) = later {
                    backwards.push(format!("{}:{}: {first} uses {module}", relative(&path), number + 1));
                }
            }
        }
    }
    assert!(backwards.is_empty(), "{backwards:#?}");
}

/// The modules of a crate with their place in its reading order.
fn declared_modules(lib: &str) -> BTreeMap<String, usize> {
    lib.lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(at, module)| (module.to_owned(), at))
        .collect()
}

/// The modules that a line names as `crate::module`, comments left out.
fn crate_paths(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn every_select_is_biased() {
    let unbiased: Vec<_> = sources()
        .iter()
        .filter(|path| !path.ends_with("tidy.rs"))
        .flat_map(|path| {
            let text = read(path);
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            let name = relative(path);
            (0..lines.len())
                .filter(|&at| lines[at].contains("select! {") && lines.get(at + 1) != Some(&"biased;"))
                .map(|at| format!("{name}:{}", at + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(unbiased.is_empty(), "{unbiased:#?}");
}

/// A law is a numbered item with a bold name under `# Laws`; a conformance test cites it as `law N` in its doc.
#[test]
fn every_law_has_a_conformance_test_and_every_test_a_law() {
    let contracts = ["store", "scheduler", "controller", "runtime", "proxy"];
    let mut faults = Vec::new();
    for contract in contracts {
        let dir = root().join("orchestra-core/src").join(contract);
        let files = rust_files(&dir);
        let laws: Vec<_> = files.iter().flat_map(|path| laws(&read(path))).collect();
        let suite: String =
            files.iter().filter(|path| relative(path).contains("conformance")).map(|path| read(path)).collect();
        if laws.is_empty() || suite.is_empty() {
            faults.push(format!("{contract}: no laws, or no conformance suite"));
        }
        if laws.iter().zip(1..).any(|(law, at)| *law != at) {
            faults.push(format!("{contract}: laws are numbered {laws:?}"));
        }
        let cited = cited_laws(&suite);
        faults.extend(
            laws.iter().filter(|law| !cited.contains(law)).map(|law| format!("{contract}: law {law} untested")),
        );
        faults.extend(cited.iter().filter(|law| !laws.contains(law)).map(|law| format!("{contract}: no law {law}")));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The rules of a store are those from 1 to 20 of the project's semantics; a case cites those it shows as `Rule 2` or
/// `Rules 1 and 2` at the head of its doc.
#[test]
fn every_rule_of_a_store_has_a_conformance_test() {
    let dir = root().join("orchestra-core/src/store/conformance");
    let suite: String = rust_files(&dir).iter().map(|path| read(path)).collect();
    let heads = suite.lines().filter_map(|line| line.trim().strip_prefix("/// Rule"));
    let cited: Vec<u32> = heads
        .map(|head| head.split([':', '.']).next().unwrap_or_default())
        .flat_map(|head| head.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()))
        .collect();
    let missing: Vec<_> = (1..=20).filter(|rule| !cited.contains(rule)).collect();
    assert!(missing.is_empty(), "no case cites {missing:?}");
}

/// An example is found by the README, and run by what its head says.
#[test]
fn the_readme_names_every_example_and_each_head_gives_its_command() {
    let readme = read(&root().join("README.md"));
    let mut faults = Vec::new();
    for path in sources().iter().filter(|path| path.parent() == Some(&root().join("examples"))) {
        let name = path.file_stem().expect("a source has a name").to_string_lossy();
        if !readme.contains(&format!("`{name}`")) {
            faults.push(format!("README.md does not name {name}"));
        }
        let text = read(path);
        let head = text.lines().take_while(|line| line.starts_with("//!"));
        let is_command = |line: &str| {
            // What it shows may be behind a feature.
            line.strip_prefix("//!     cargo run ").is_some_and(|rest| rest.ends_with(&format!("--example {name}")))
        };
        if !head.map(|line| line.split(" -- ").next().unwrap_or(line)).any(is_command) {
            faults.push(format!("the head of {name} gives no command"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_crate_has_a_readme_that_its_docs_test() {
    for name in CRATES {
        assert!(read(&root().join(name).join("README.md")).starts_with(&format!("# {name}\n")), "{name}");
        let lib = read(&root().join(name).join("src/lib.rs"));
        assert!(lib.contains("#[doc = include_str!(\"../README.md\")]"), "{name} does not test its README");
    }
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let left: Vec<_> = sources()
        .iter()
        .flat_map(|path| {
            let (name, text) = (relative(path), read(path));
            let lines = text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
            lines.map(|(at, _)| format!("{name}:{}", at + 1)).collect::<Vec<_>>()
        })
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

fn laws(text: &str) -> Vec<u32> {
    text.lines()
        .skip_while(|line| line.trim() != "/// # Laws")
        .skip(1)
        .take_while(|line| line.trim().starts_with("///") && !line.trim().starts_with("/// # "))
        .filter_map(|line| line.trim().strip_prefix("/// ")?.split_once(". **")?.0.parse().ok())
        .collect()
}

/// Those of `law 2`, `Laws 1 and 3`, `laws 1 to 4`.
fn cited_laws(suite: &str) -> Vec<u32> {
    let mut cited = Vec::new();
    for line in suite.lines().filter(|line| line.trim().starts_with("//")) {
        for rest in line.to_lowercase().split("law").skip(1) {
            let rest = rest.strip_prefix('s').unwrap_or(rest);
            let end = rest.find([':', '(', '.', ',']).unwrap_or(rest.len());
            let numbers: Vec<u32> = rest[..end].split_whitespace().filter_map(|word| word.parse().ok()).collect();
            match numbers[..] {
                [first, last] if rest.contains(" to ") => cited.extend(first..=last),
                _ => cited.extend(numbers),
            }
        }
    }
    cited.sort_unstable();
    cited.dedup();
    cited
}
