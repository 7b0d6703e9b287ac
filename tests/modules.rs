//! The modules of `src` use each other as the arrows in `.github/CONTRIBUTING.md` say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

type Arrows = BTreeSet<(String, String)>;

/// Reads the arrows of the first graph: `a & b --> c --> d`.
fn drawn() -> Arrows {
    let text = fs::read_to_string(".github/CONTRIBUTING.md").unwrap();
    let (_, graph) = text.split_once("graph LR\n").expect("a graph");
    let (graph, _) = graph.split_once("```").expect("the end of the graph");
    let mut arrows = Arrows::new();
    for line in graph.lines() {
        let ends: Vec<Vec<&str>> =
            line.split("-->").map(|end| end.split('&').map(str::trim).collect()).collect();
        for pair in ends.windows(2) {
            for (from, to) in
                pair[0].iter().flat_map(|from| pair[1].iter().map(move |to| (from, to)))
            {
                arrows.insert(((*from).to_owned(), (*to).to_owned()));
            }
        }
    }
    arrows
}

/// Returns the code of a module: its file and those in its folder, without comments and tests.
fn code(path: &Path) -> String {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.map(|path| code(&path)).collect();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let (code, _) = text.split_once("#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

#[test]
fn modules_use_each_other_as_documented() {
    let names: Vec<String> = fs::read_dir("src")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()).filter(|name| name != "lib"))
        .collect();
    let mut used = Arrows::new();
    for from in &names {
        let code = [format!("src/{from}.rs"), format!("src/{from}")]
            .map(|path| code(Path::new(&path)))
            .concat();
        for to in names.iter().filter(|to| *to != from) {
            if code.contains(&format!("crate::{to}")) {
                used.insert((from.clone(), to.clone()));
            }
        }
    }
    assert_eq!(used, drawn());
}
