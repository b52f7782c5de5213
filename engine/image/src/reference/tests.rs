//! What names mean.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Reference {
    Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_short_name_means_the_library_of_docker_io() {
    for (text, canonical, familiar) in [
        ("nginx", "docker.io/library/nginx", "nginx"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("index.docker.io/nginx", "docker.io/library/nginx", "nginx"),
        ("docker.io/a/b", "docker.io/a/b", "a/b"),
        ("a/b/c", "docker.io/a/b/c", "a/b/c"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/a", "localhost/a", "localhost/a"),
        ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("Host/a", "Host/a", "Host/a"),
        ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f", "a__b/c---d.e_f"),
    ] {
        assert_eq!(parse(text).canonical(), canonical);
        assert_eq!(parse(text).to_string(), familiar);
    }
}

#[test]
fn latest_is_added_only_where_nothing_else_is_said() {
    let digest = Digest::of(b"x");
    assert_eq!(parse("a").or_latest().to_string(), "a:latest");
    assert_eq!(parse("a:1").or_latest().to_string(), "a:1");
    let pinned = format!("a@{digest}");
    assert_eq!(parse(&pinned).or_latest().to_string(), pinned);
    let both = parse(&format!("a:1@{digest}"));
    assert_eq!((both.tag(), both.digest()), (Some("1"), Some(digest)));
}

#[test]
fn what_docker_refuses_is_refused_in_its_words() {
    for (text, message) in [
        ("", "invalid reference format"),
        (":1", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a@", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("http://a/b", "invalid reference format"),
        ("a:-x", "invalid reference format"),
        ("Nginx", "invalid reference format: repository name (library/Nginx) must be lowercase"),
        ("a/B:1", "invalid reference format: repository name (a/B) must be lowercase"),
    ] {
        let error = Reference::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
    assert!(Reference::parse(&"a".repeat(64)).unwrap_err().to_string().contains("64-byte"));
    assert!(Reference::parse(&"z/".repeat(127)).is_err());
    assert!(Reference::parse(&"z".repeat(256)).unwrap_err().to_string().contains("255"));
    assert!(parse("a").with_tag("x/y").is_err());
}

#[test]
fn a_refusal_names_the_reference_and_the_form_it_should_have() {
    assert_eq!(
        Reference::parse("a//b").unwrap_err().to_string(),
        "invalid reference format: \"a//b\" is not [REGISTRY/]NAME[:TAG][@DIGEST]"
    );
}

#[test]
fn patterns_match_as_in_go() {
    for (pattern, name, wanted) in [
        ("abc", "abc", Ok(true)),
        ("*", "abc", Ok(true)),
        ("*c", "abc", Ok(true)),
        ("a*", "ab/c", Ok(false)),
        ("a*/b", "abc/b", Ok(true)),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", Ok(true)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
        ("ab[c]", "abc", Ok(true)),
        ("ab[b-d]", "abc", Ok(true)),
        ("ab[^c]", "abc", Ok(false)),
        ("ab[^e-g]", "abc", Ok(true)),
        ("a\\*b", "a*b", Ok(true)),
        ("a?b", "a/b", Ok(false)),
        ("[\\]a]", "]", Ok(true)),
        ("[", "a", Err(BadPattern)),
        ("[]a]", "]", Err(BadPattern)),
        ("[-]", "-", Err(BadPattern)),
        ("[a-]", "a", Err(BadPattern)),
        ("a\\", "a", Err(BadPattern)),
        ("*x", "xxx", Ok(true)),
        ("", "", Ok(true)),
    ] {
        let found = Pattern::parse(pattern).map(|pattern| pattern.matches(name));
        assert_eq!(found, wanted, "{pattern} {name}");
    }
}

#[test]
fn a_filter_sees_familiar_and_canonical_names() {
    let name = parse("rnet/toolbox:latest");
    for pattern in
        ["rnet/*", "rnet/toolbox", "rnet/toolbox:l*", "docker.io/rnet/toolbox", "docker.io/*/*"]
    {
        assert_eq!(name.matches(pattern), Ok(true), "{pattern}");
    }
    assert_eq!(name.matches("*:latest"), Ok(false));
    assert_eq!(name.matches("toolbox"), Ok(false));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,80}") {
        let _ = Reference::parse(&text);
        let _ = Pattern::parse(&text).map(|pattern| pattern.matches("a/b:c"));
    }

    #[test]
    fn what_parses_is_stable_in_both_forms(
        text in "([a-zA-Z0-9.-]{1,8}(:[0-9]{1,4})?/)?[a-z0-9._-]{1,12}(/[a-z0-9]{1,5})?(:[\\w.]{1,8})?"
    ) {
        if let Ok(name) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&name.to_string()).unwrap(), &name);
            prop_assert_eq!(&Reference::parse(&name.canonical()).unwrap(), &name);
        }
    }
}

#[test]
fn a_repository_that_is_called_like_a_registry_is_not_taken_for_one() {
    for name in ["docker.io/quay.io/x", "docker.io/localhost/x", "docker.io/library/localhost/x"] {
        let reference = Reference::parse(name).unwrap();
        assert_eq!(reference.domain(), "docker.io");
        assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference, "{name}");
    }
    let name = format!("docker.io/library/{}", "a".repeat(64));
    let reference = Reference::parse(&name).unwrap();
    assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
    assert_eq!(Reference::parse("docker.io/a/b").unwrap().to_string(), "a/b");
}
