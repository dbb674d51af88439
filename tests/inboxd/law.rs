//! The import law, and the other things that one place alone may do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each module imports of ours: exactly this, so that the law never allows more than the code needs.
const LAW: [(&str, &[&str]); 18] = [
    ("clock", &[]),
    ("telemetry", &[]),
    ("model", &["clock"]),
    ("store", &["clock", "model"]),
    ("maps", &["model"]),
    ("mail", &["model"]),
    ("dns", &["model"]),
    ("stack", &["clock", "telemetry"]),
    ("milter", &["maps", "model", "telemetry"]),
    ("publish", &["maps", "model", "store", "telemetry"]),
    ("signer", &["clock", "maps", "milter", "model", "telemetry"]),
    (
        "inbound",
        &["clock", "dns", "maps", "milter", "model", "telemetry"],
    ),
    ("throttle", &["clock", "model", "telemetry"]),
    ("ops", &["clock", "dns", "model", "store", "telemetry"]),
    (
        "http",
        &["clock", "model", "ops", "publish", "store", "telemetry"],
    ),
    (
        "config",
        &[
            "dns",
            "http",
            "inbound",
            "mail",
            "maps",
            "model",
            "ops",
            "stack",
            "telemetry",
        ],
    ),
    (
        "daemon",
        &[
            "clock",
            "config",
            "dns",
            "http",
            "mail",
            "maps",
            "milter",
            "model",
            "ops",
            "publish",
            "signer",
            "stack",
            "store",
            "telemetry",
            "throttle",
        ],
    ),
    (
        "cli",
        &[
            "clock",
            "config",
            "daemon",
            "dns",
            "http",
            "inbound",
            "mail",
            "maps",
            "milter",
            "model",
            "ops",
            "publish",
            "signer",
            "stack",
            "telemetry",
        ],
    ),
];

/// Where the machine's own clock and randomness are handed in: the composition roots, and the names of requests.
const MACHINE_IS_BLESSED_IN: [&str; 11] = [
    "src/cli/dev.rs",
    "src/cli/domain.rs",
    "src/cli/import.rs",
    "src/cli/inbound.rs",
    "src/cli/keys.rs",
    "src/cli/signer.rs",
    "src/cli/stack.rs",
    "src/cli/verify.rs",
    "src/clock.rs",
    "src/daemon.rs",
    "src/http/watch.rs",
];

/// Every file of `src`, without comments: the code, and the part of it that is not for tests.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    let mut sources: Vec<_> = files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            let code = lines.join("\n");
            let real = code.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            let name = file.strip_prefix(root).unwrap().display().to_string();
            (name, code, real)
        })
        .collect();
    sources.sort();
    assert!(sources.len() > 60, "{sources:?}");
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The modules of ours that a text names: `crate::a::..` and the first names in `crate::{a::.., b}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            None => {
                found.insert(identifier(rest));
            }
            Some(group) => {
                let (mut depth, mut first) = (0, true);
                for (place, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => first = true,
                        c if first && !c.is_whitespace() => {
                            found.insert(identifier(&group[place..]));
                            first = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// `src/http/watch.rs` is of `http`.
fn module_of(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap();
    rest.split('/').next().unwrap().trim_end_matches(".rs")
}

fn law() -> BTreeMap<&'static str, BTreeSet<String>> {
    LAW.iter()
        .map(|(module, imports)| (*module, imports.iter().map(ToString::to_string).collect()))
        .collect()
}

#[test]
fn modules_import_what_the_law_says_and_nothing_else() {
    let mut found: BTreeMap<&str, BTreeSet<String>> =
        LAW.iter().map(|(module, _)| (*module, BTreeSet::new())).collect();
    let sources = sources();
    for (file, code, _) in &sources {
        let module = module_of(file);
        if ["lib", "main"].contains(&module) {
            assert_eq!(imports(code), BTreeSet::new(), "{file}");
            continue;
        }
        let of_module = found
            .get_mut(module)
            .unwrap_or_else(|| panic!("{module} is not in the law"));
        of_module.extend(imports(code).into_iter().filter(|import| import != module));
    }
    assert_eq!(found, law());
}

#[test]
fn the_map_of_the_crate_tells_the_law_and_every_module() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (module, imports) in LAW {
        let imports = if imports.is_empty() {
            "nothing".to_owned()
        } else {
            imports.join(", ")
        };
        let row = format!("//! {module:<11}{imports}\n");
        assert!(map.contains(&row), "the map lacks {row}");
        assert!(
            map.contains(&format!("//! - [`{module}`]: ")),
            "the map does not describe {module}"
        );
    }
    let modules: BTreeSet<_> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(modules, law().into_keys().collect());
}

#[test]
fn only_the_store_has_sql() {
    for (file, code, _) in sources() {
        let has_sql = ["sqlx::query", "sqlx::raw_sql", "sqlx::migrate", "QueryBuilder"]
            .iter()
            .any(|word| code.contains(word));
        assert!(!has_sql || module_of(&file) == "store", "{file}");
    }
}

#[test]
fn one_function_call_is_unsafe() {
    let blocks: Vec<_> = sources()
        .iter()
        .flat_map(|(file, code, _)| {
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            words
                .filter(|&word| word == "unsafe")
                .map(|_| file.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(blocks, ["src/maps/table.rs"]);
}

#[test]
fn the_machines_clock_is_handed_in_at_the_roots_alone() {
    for (file, _, real) in sources() {
        let names = real
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "Machine");
        assert!(
            !names || MACHINE_IS_BLESSED_IN.contains(&file.as_str()),
            "{file} takes the machine's clock or randomness: take a Clock or an Entropy"
        );
    }
    let blessed_in_vain = MACHINE_IS_BLESSED_IN
        .into_iter()
        .filter(|&file| {
            !sources()
                .iter()
                .any(|(name, _, real)| name == file && real.contains("Machine"))
        })
        .collect::<Vec<_>>();
    assert_eq!(blessed_in_vain, [""; 0]);
}

#[test]
fn output_goes_through_what_survives_a_closed_pipe() {
    for (file, _, code) in sources() {
        for macro_name in ["println!", "print!", "eprintln!", "eprint!", "dbg!"] {
            let used = code
                .match_indices(macro_name)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(
                !used,
                "{file} has {macro_name}, which panics when its reader has gone: src/cli/output.rs"
            );
        }
    }
}
