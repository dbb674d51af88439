//! JSON as callers must write it (RFC 8259), with one more rule: no name twice in one object, because what a
//! duplicate means differs from parser to parser.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::model::text_encoding::utf8;

/// Parses a document. The error says what is wrong and where.
pub fn parse_strictly(octets: &[u8]) -> Result<Value, String> {
    // RFC 8259, 8.1.
    let text = utf8(octets).map_err(|other| format!("must be JSON in UTF-8{other}"))?;
    serde_json::from_str::<Strict>(text)
        .map(|strict| strict.0)
        .map_err(|error| format!("must be JSON: {error}"))
}

/// The same text for every document that is the same value: the order of members, white space, escapes and the form of a
/// number do not matter.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(object) => {
            let mut members: Vec<(&String, &Value)> = object.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            let members: Vec<String> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Number(number) => canonical_number(number),
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

/// Whole numbers are written the same way with and without a fraction or exponent.
fn canonical_number(number: &Number) -> String {
    /// Below it, every whole number has a floating-point number of its own.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < WHOLE_MAX => {
            // Without a sign of zero.
            format!("{:.0}", float + 0.0)
        }
        _ => number.to_string(),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if object.insert(name.clone(), value).is_some() {
                return Err(serde::de::Error::custom(format_args!(
                    "the name {name:?} is given twice"
                )));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_parsed_whole() {
        let text = br#" {"a":[1,-2,3.5,true,null,"x"],"b":{"c":18446744073709551615}} "#;
        assert_eq!(
            parse_strictly(text).unwrap(),
            json!({"a":[1,-2,3.5,true,null,"x"],"b":{"c":18_446_744_073_709_551_615_u64}})
        );
    }

    #[test]
    fn names_given_twice_are_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"b":{"a":1,"a":2}}"#,
            r#"[{"a":1,"\u0061":2}]"#,
        ] {
            let error = parse_strictly(text.as_bytes()).unwrap_err();
            assert!(error.contains("given twice"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "{]",
            "{'a':1}",
            "{\"a\":}",
            "nul",
            "{} {}",
            "{\"a\":\"\u{1}\"}",
            &deep,
        ] {
            assert!(
                parse_strictly(text.as_bytes()).is_err(),
                "{} octets were taken",
                text.len()
            );
        }
    }

    #[test]
    fn equal_values_have_one_text() {
        let text = |document: &str| canonical(&parse_strictly(document.as_bytes()).unwrap());
        for (one, other) in [
            (
                r#"{"a":1,"b":[true,null]}"#,
                "{ \"b\" : [ true, null ],\n\"a\" : 1 }",
            ),
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            (r#"{"a":100}"#, r#"{"a":1e2}"#),
            (r#"{"a":0}"#, r#"{"a":-0.0}"#),
            (r#"{"\u00e9":"\u0041\/"}"#, r#"{"é":"A/"}"#),
        ] {
            assert_eq!(text(one), text(other));
        }
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":9007199254740992}"#, r#"{"a":9007199254740993}"#),
            (r#"{"a":0.1}"#, r#"{"a":0.2}"#),
            (r#"{"a":"b\",\"c\":\"d"}"#, r#"{"a":"b","c":"d"}"#),
        ] {
            assert_ne!(text(one), text(other));
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_strictly(&octets);
        }
    }
}
