//! JSON as callers must write it (RFC 8259), with one more rule: no name twice in one object, because what a
//! duplicate means differs from parser to parser.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Number, Value};

/// Parses a document. The error says what is wrong and where.
pub fn parse_strictly(octets: &[u8]) -> Result<Value, String> {
    if std::str::from_utf8(octets).is_err() {
        return Err("must be JSON in UTF-8".to_owned());
    }
    serde_json::from_slice::<Strict>(octets)
        .map(|strict| strict.0)
        .map_err(|error| format!("must be JSON: {error}"))
}

/// A nested object that is read into a struct. Serde would take a list for one, too: its items as the fields.
pub struct ObjectOf<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = ObjectOf<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<ObjectOf<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries)).map(ObjectOf)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
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
        assert!(parse_strictly(b"{\"a\":\"\xff\"}").unwrap_err().contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_strictly(&octets);
        }
    }
}
