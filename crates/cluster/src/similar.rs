//! What a wrong word of a cluster file was probably meant to be. Called by everything that refuses one.

/// From this likeness on a word is offered; clap, which does the same for subcommands, asks for a little less.
const ALIKE_MIN: f64 = 0.8;

/// The beginning of a help text that offers the known word most like `word`; nothing when none is.
pub(crate) fn offer<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    match nearest(word, known) {
        Some(known) => format!("did you mean {known}? "),
        None => String::new(),
    }
}

fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    /// No known word is longer; comparing takes the square of it.
    const LEN_MAX: usize = 64;
    if word.len() > LEN_MAX {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let like = |known: &'k str| (strsim::jaro_winkler(&word, &known.replace('-', "_")), known);
    let best = known.into_iter().map(like).max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(alike, _)| *alike >= ALIKE_MIN).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["name", "address", "interfaces", "roles", "weight", "announce", "pressure_file"];
        for (slip, meant) in [
            ("adress", Some("address")),
            ("Role", Some("roles")),
            ("wieght", Some("weight")),
            ("pressure-file", Some("pressure_file")),
            ("vips", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(slip, keys), meant, "{slip}");
        }
        assert_eq!(nearest(&"name".repeat(1000), keys), None);
        let policies = ["wrr", "least-loaded", "lard", "lard/r"];
        assert_eq!(nearest("leastloaded", policies), Some("least-loaded"));
        assert_eq!(nearest("LARD", policies), Some("lard"));
        assert_eq!(nearest("round-robin", policies), None);
    }
}
