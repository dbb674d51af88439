use super::*;

fn error(text: &str) -> SyntaxError {
    let parsed = Record::parse(text.as_bytes());
    parsed.expect_err(text)
}

#[test]
fn a_record_begins_with_the_version_and_a_space() {
    for text in ["v=spf1", "v=spf1 ", "V=SPF1 mx", "v=spf1  -all"] {
        assert!(is_record(text.as_bytes()), "{text}");
    }
    for text in [
        "",
        "v=spf",
        "v=spf10 -all",
        "v=spf1-all",
        "v=spf1\t-all",
        " v=spf1",
        "spf1 -all",
        "v=spf2.0/pra -all",
    ] {
        assert!(!is_record(text.as_bytes()), "{text}");
    }
}

#[test]
fn what_the_grammar_has_is_taken() {
    for terms in [
        "",
        "  mx   -all  ",
        "MX ?ALL",
        "a a:example.com a/24 a//64 a/24//64 a:example.com/0//0 a:example.com.",
        "mx:foo:bar/baz.example.com mx:%{d}/24 mx/32//128",
        "a:%{d} a:%{d2r-}.example a:%%%_%- a:1/2.example a:_spf.x-1 a:9.1-2",
        "include:_spf.example.com include:%{o}",
        "exists:%{ir}.%{v}._spf.%{d2} exists:%{l1r+}.%{S}.example.com",
        "ptr ptr:example.com",
        "ip4:192.0.2.1 ip4:0.0.0.0/0 ip4:192.0.2.1/32",
        "ip6:2001:db8:: ip6:::1/128 ip6:::ffff:192.0.2.1/0 IP6:2001:DB8::A",
        "redirect=_spf.example.com",
        "exp=explain._spf.%{d} REDIRECT=example.com",
        "moo.cow-far_out=man:dog/cat a=b x= x= -all",
    ] {
        let text = format!("v=spf1 {terms}");
        let parsed = Record::parse(text.as_bytes());
        assert!(parsed.is_ok(), "{text}: {parsed:?}");
    }
}

#[test]
fn one_wrong_term_makes_all_of_it_wrong_and_is_named() {
    for (term, why) in [
        ("1x=foo", "no mechanism"),
        ("moo", "no mechanism"),
        ("moo.cow/far_out=man", "no mechanism"),
        ("+foo=bar", "no mechanism"),
        ("=a", "no mechanism"),
        ("--all", "no mechanism"),
        ("all.", "no mechanism"),
        ("-all,", "no mechanism"),
        ("+", "no mechanism"),
        ("ip:192.0.2.1", "ip4:"),
        ("redirect:example.com", "redirect="),
        ("all:foo", "nothing may follow"),
        ("all/8", "nothing may follow"),
        ("include", "needs a domain"),
        ("include/24", "needs a domain"),
        ("include:", "lacks a domain"),
        ("include:example.com/24", "no full domain name"),
        ("exists", "needs a domain"),
        ("a:", "lacks a domain"),
        ("mx:/24", "lacks a domain"),
        ("ptr:", "lacks a domain"),
        ("ptr/0", "no prefix length"),
        ("a:foo", "no full domain name"),
        ("a:foo.1", "no full domain name"),
        ("a:foo.x-", "no full domain name"),
        ("a:%{d}foo", "no full domain name"),
        ("a:example.com:8080", "no full domain name"),
        ("a:192.0.2.1", "takes a name"),
        ("a/99", "0 to 32"),
        ("a/33//64", "0 to 32"),
        ("a/", "0 to 32"),
        ("a/024", "0 to 32"),
        ("a/1/2", "0 to 32"),
        ("a//129", "0 to 128"),
        ("mx//", "0 to 128"),
        ("mx/24//", "0 to 128"),
        ("mx/33", "0 to 32"),
        ("mx///64", "prefix length"),
        ("mx/+5", "0 to 32"),
        ("ip4", "needs an IPv4 address"),
        ("ip4:", "no IPv4 address"),
        ("ip4:192.0.2.300", "no IPv4 address"),
        ("ip4:203.0.113.05", "no IPv4 address"),
        ("ip4:203.0.113", "no IPv4 address"),
        ("ip4:2001:db8::1", "no IPv4 address"),
        ("ip4:203.0.113.5/", "0 to 32"),
        ("ip4:203.0.113.0/33", "0 to 32"),
        ("ip4:203.0.113.0//24", "0 to 32"),
        ("ip6:2001:db8::/129", "0 to 128"),
        ("ip6:2001:db8::/200", "0 to 128"),
        ("ip6:192.0.2.1", "no IPv6 address"),
        ("ip6:fe80::1%eth0", "no IPv6 address"),
        ("a:%{x}.acme.example", "no macro"),
        ("a:%{d0}", "no macro"),
        ("a:%{d", "no macro"),
        ("a:%", "no macro"),
        ("a:%x.com", "no macro"),
        ("exists:%{c}.example.com", "no macro"),
        ("x=%{t}", "no macro"),
        ("x=%", "no macro"),
        ("redirect=", "lacks a domain"),
        ("exp=", "lacks a domain"),
        ("redirect=foo", "no full domain name"),
        ("mx\t-all", "visible ASCII"),
        ("m\u{fc}x", "visible ASCII"),
        ("redirect=a.example redirect=a.example", "second time"),
        ("exp=a.example exp=b.example", "second time"),
    ] {
        for text in [
            format!("v=spf1 mx {term} -all"),
            format!("v=spf1 {term}"),
            format!("v=spf1 -all {term}"),
        ] {
            let error = error(&text);
            assert!(error.why.contains(why), "{text}: {error}");
            let last: String = term.split(' ').next_back().unwrap().replace('\t', "?");
            assert!(error.term.contains(&last), "{text}: {error}");
        }
    }
    let long = error(&format!("v=spf1 a:{}", "x".repeat(10_000)));
    assert!(long.to_string().len() < 300, "{long}");
}

#[test]
fn networks_are_compared_by_their_first_bits() {
    for (term, address, is_in) in [
        ("ip4:192.0.2.0/24", "192.0.2.255", true),
        ("ip4:192.0.2.7/24", "192.0.2.255", true),
        ("ip4:192.0.2.0/25", "192.0.2.128", false),
        ("ip4:192.0.2.1", "192.0.2.1", true),
        ("ip4:192.0.2.1", "192.0.2.0", false),
        ("ip4:192.0.2.1/0", "203.0.113.9", true),
        ("ip4:0.0.0.0/0", "2001:db8::1", false),
        ("ip6:::/0", "192.0.2.1", false),
        ("ip6:2001:db8::/32", "2001:db8:ffff::1", true),
        ("ip6:2001:db8::/33", "2001:db8:8000::1", false),
        ("ip6:2001:db8::1", "2001:db8::1", true),
    ] {
        let record = Record::parse(format!("v=spf1 {term}").as_bytes()).unwrap();
        let Mechanism::Network(network) = record.directives[0].mechanism else {
            unreachable!("{term}");
        };
        assert_eq!(
            network.contains(address.parse().unwrap()),
            is_in,
            "{term} {address}"
        );
    }
}

/// The examples of RFC 7208, 7.4.
#[test]
fn macros_are_expanded_as_the_rfc_shows() {
    let ipv4 = MacroValues {
        client: "192.0.2.3".parse().unwrap(),
        local_part: "strong-bad",
        sender_domain: "email.example.com",
        domain: "email.example.com",
        helo: "mx.example.org",
        validated_name: "mx.example.org",
    };
    let ipv6 = MacroValues {
        client: "2001:db8::cb01".parse().unwrap(),
        ..ipv4.clone()
    };
    for (spec, name) in [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        (
            "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}",
            "bad.strong.lp.3.2.0.192.in-addr._spf.example.com",
        ),
        (
            "%{d2}.trusted-domains.example.net",
            "example.com.trusted-domains.example.net",
        ),
        ("%{p}.%{h}.x.", "mx.example.org.mx.example.org.x"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("a%%b%_c%-.x", "a%b c%20.x"),
        ("%{d99999999999999999999}", "email.example.com"),
    ] {
        assert_eq!(DomainSpec::parse(spec).unwrap().expand(&ipv4), name, "{spec}");
    }
    let name = DomainSpec::parse("%{ir}.%{v}._spf.%{d2}").unwrap().expand(&ipv6);
    assert_eq!(
        name,
        "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
    );
}

#[test]
fn a_long_name_loses_labels_from_the_left() {
    let long = MacroValues {
        client: "192.0.2.3".parse().unwrap(),
        local_part: &"12345678.".repeat(40),
        sender_domain: "x",
        domain: "x",
        helo: "x",
        validated_name: "x",
    };
    let name = DomainSpec::parse("%{l}.example.com").unwrap().expand(&long);
    assert!(name.len() <= 253 && name.len() > 240, "{name}");
    assert!(
        name.starts_with("12345678.") && name.ends_with(".example.com"),
        "{name}"
    );
}

#[test]
fn the_first_all_decides_whether_all_hosts_may_send() {
    for (text, all_hosts) in [
        ("v=spf1 mx +all", true),
        ("v=spf1 all -all", true),
        ("v=spf1 -all +all", false),
        ("v=spf1 mx", false),
    ] {
        assert_eq!(
            Record::parse(text.as_bytes()).unwrap().passes_all_hosts(),
            all_hosts,
            "{text}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_octets_make_the_parser_panic(octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
        let _ = Record::parse(&[b"v=spf1 ", &octets[..]].concat());
    }

    #[test]
    fn nor_do_pieces_of_the_grammar(pieces in proptest::collection::vec("[-+~?]|a|mx|ip4|ip6|all|include|redirect|exp|[:=/%{}. ]|%\\{[a-z][0-9]?r?[-.]?\\}|[0-9]{1,3}|example|com", 0..30)) {
        let text = format!("v=spf1 {}", pieces.concat());
        if let Ok(record) = Record::parse(text.as_bytes()) {
            // What was taken is taken again, term by term.
            for directive in &record.directives {
                let again = Record::parse(format!("v=spf1 {}", directive.text).as_bytes()).unwrap();
                proptest::prop_assert_eq!(&again.directives[0], directive);
            }
        }
    }
}
