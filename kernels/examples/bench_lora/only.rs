//! Which points a run was asked for.

/// Those of `all` whose name holds one of the texts of `only` (`TEXT|…`; an empty one is in every name).
///
/// An error where a text is in no name: what was asked for would not run, and the run would look like a success.
pub(crate) fn only<T>(mut all: Vec<T>, only: &str, name: impl Fn(&T) -> String) -> Result<Vec<T>, String> {
    let names: Vec<String> = all.iter().map(&name).collect();
    let missing: Vec<&str> = only.split('|').filter(|text| !names.iter().any(|name| name.contains(text))).collect();
    if !missing.is_empty() {
        let count = names.len();
        return Err(format!("none of the {count} names holds \"{}\"", missing.join("\" or \"")));
    }
    all.retain(|point| only.split('|').any(|text| name(point).contains(text)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_in_no_name_is_an_error_beside_others_too() {
        let names = || vec!["bf16 r16 1 distinct".to_owned(), "bf16 r8 32 uniform".to_owned()];
        let chosen = |text: &str| only(names(), text, String::clone);
        assert_eq!(chosen(""), Ok(names()));
        assert_eq!(chosen("uniform"), Ok(names()[1..].to_vec()));
        assert_eq!(chosen("uniform|r16"), Ok(names()));
        for (text, missing) in [("skewed", "skewed"), ("uniform|skewed", "skewed")] {
            let error = chosen(text).expect_err("no such point");
            assert!(error.contains(&format!("\"{missing}\"")) && !error.contains("uniform"), "{error}");
        }
        assert!(only(Vec::<String>::new(), "", String::clone).is_err(), "no points at all");
    }
}
