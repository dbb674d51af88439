//! The fields of a request body: each is one that the request takes, or the caller is told.
//!
//! Which fields an object takes is known from its type alone: a derived [`Deserialize`] hands the names of its fields to
//! the deserializer. The deserializer here compares them with what the body has.

use std::cell::RefCell;

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, Unexpected, Visitor,
        value::StringDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, map};

use super::problem::Problem;
use crate::ops::edit::Edit;

/// Characters of an unknown name that an error repeats.
const NAME_SHOWN_MAX_CHARS: usize = 100;

/// The body of a call that takes no fields.
#[derive(Deserialize, Debug)]
pub(super) struct NoFields {}

/// What a request wants done with what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Something is made or done: all fields may have defaults.
    Command,
    /// Something is changed: an object that names nothing changes nothing.
    Change,
}

/// Reads the fields of a body. With `is_lenient`, unknown ones are left out, and their paths returned; otherwise they are
/// refused.
pub(super) fn read<T: DeserializeOwned>(
    object: Map<String, Value>,
    purpose: Purpose,
    is_lenient: bool,
) -> Result<(T, Vec<String>), Problem> {
    let findings = RefCell::default();
    let read = serde_path_to_error::deserialize(Fields {
        value: Value::Object(object),
        path: String::new(),
        findings: &findings,
    });
    let Findings { unknown, empty } = findings.into_inner();
    if let Some(first) = unknown.first().filter(|_| !is_lenient) {
        return Err(first.refused());
    }
    if let Some(first) = empty.first().filter(|_| purpose == Purpose::Change) {
        return Err(first.refused());
    }
    let input = read.map_err(|error| {
        let path = error.path().to_string();
        // The path of a missing field is the object that lacks it; the message names the field.
        let rule = error.inner().to_string();
        match (path.as_str(), missing_field(&rule)) {
            (".", Some(field)) => Problem::invalid(field, "is required"),
            (path, Some(field)) => Problem::invalid(&format!("{path}.{field}"), "is required"),
            (path, None) => Problem::invalid(path, rule),
        }
    })?;
    Ok((input, unknown.into_iter().map(|unknown| unknown.path()).collect()))
}

fn missing_field(rule: &str) -> Option<&str> {
    rule.strip_prefix("missing field `")?.strip_suffix('`')
}

/// What objects of a body have that their types do not, and the other way round.
#[derive(Default)]
struct Findings {
    unknown: Vec<Unknown>,
    empty: Vec<Empty>,
}

/// A field that its object does not take.
struct Unknown {
    object: String,
    name: String,
    allowed: &'static [&'static str],
}

/// An object that has none of the fields that it takes.
struct Empty {
    object: String,
    allowed: &'static [&'static str],
}

impl Unknown {
    fn path(&self) -> String {
        join(&self.object, &self.name)
    }

    fn refused(&self) -> Problem {
        let shown: String = self.name.chars().take(NAME_SHOWN_MAX_CHARS).collect();
        let field = join(&self.object, &shown.escape_debug().to_string());
        let nearest = nearest(&self.name, self.allowed).map_or_else(String::new, |name| {
            format!("; did you mean `{}`?", join(&self.object, name))
        });
        Problem::invalid(
            &field,
            format!("unknown field{nearest} {}", taken(&self.object, self.allowed)),
        )
    }
}

impl Empty {
    fn refused(&self) -> Problem {
        let field = if self.object.is_empty() {
            "body"
        } else {
            &self.object
        };
        Problem::invalid(
            field,
            format!("names nothing to change {}", taken(&self.object, self.allowed)),
        )
    }
}

fn taken(object: &str, allowed: &[&str]) -> String {
    let object = if object.is_empty() { "this call" } else { object };
    if allowed.is_empty() {
        format!("({object} takes no fields)")
    } else {
        format!("({object} takes {})", allowed.join(", "))
    }
}

fn join(object: &str, name: &str) -> String {
    if object.is_empty() {
        name.to_owned()
    } else {
        format!("{object}.{name}")
    }
}

/// The known name that a mistyped one is nearest to, if it is near: case and separators do not count, and one character
/// in three may be wrong.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const CHARS_PER_TYPO: usize = 3;
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(|c| c.is_alphanumeric());
        letters
            .take(NAME_SHOWN_MAX_CHARS)
            .flat_map(char::to_lowercase)
            .collect()
    };
    let wanted = plain(name);
    known
        .iter()
        .map(|known| {
            let distance = strsim::damerau_levenshtein(&wanted, &plain(known));
            (distance, *known)
        })
        .filter(|(distance, known)| *distance <= known.len() / CHARS_PER_TYPO)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// A value of a body with its path. Objects that are read into structs are compared with the fields of these.
struct Fields<'a> {
    value: Value,
    path: String,
    findings: &'a RefCell<Findings>,
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.value.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    /// A number with a fraction of zero is an integer (JSON Schema 2020-12, 6.1.1).
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.value.as_f64().and_then(whole) {
            Some(number) => visitor.visit_u32(number),
            None => self.value.deserialize_u32(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        // Of serde's own, a list would do as well: its items as the fields.
        let Value::Object(object) = self.value else {
            return Err(Self::Error::invalid_type(unexpected(&self.value), &"an object"));
        };
        let (known, unknown): (Map<_, _>, Map<_, _>) = object
            .into_iter()
            .partition(|(name, _)| fields.contains(&name.as_str()));
        let mut findings = self.findings.borrow_mut();
        findings
            .unknown
            .extend(unknown.into_iter().map(|(name, _)| Unknown {
                object: self.path.clone(),
                name,
                allowed: fields,
            }));
        if known.is_empty() {
            findings.empty.push(Empty {
                object: self.path.clone(),
                allowed: fields,
            });
        }
        drop(findings);
        visitor.visit_map(Members {
            entries: known.into_iter(),
            value: None,
            object: self.path,
            findings: self.findings,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

/// The integer that a number is, if it is one of 32 bits.
fn whole(number: f64) -> Option<u32> {
    if number.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&number) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a whole number of this range"
    )]
    Some(number as u32)
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

/// The known members of an object, one after the other.
struct Members<'a> {
    entries: map::IntoIter,
    value: Option<(String, Value)>,
    object: String,
    findings: &'a RefCell<Findings>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some((name, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((join(&self.object, &name), value));
        let name: StringDeserializer<Self::Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        let (path, value) = self
            .value
            .take()
            .ok_or_else(|| Self::Error::custom("a value without a name"))?;
        seed.deserialize(Fields {
            value,
            path,
            findings: self.findings,
        })
    }
}

/// Of a PATCH: a member that is left out stays, null removes, anything else is the new value (RFC 7396). The field needs
/// `#[serde(default)]`.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Edit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Clear, Self::Set))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "camelCase")]
    struct Outer {
        #[serde(default)]
        display_name: Edit<String>,
        inner: Option<Inner>,
        free: Option<Map<String, Value>>,
    }

    #[derive(Deserialize, Debug)]
    struct Inner {
        #[serde(default)]
        inboxes: Edit<u32>,
        #[expect(dead_code, reason = "only its absence counts")]
        needed: bool,
    }

    fn object(body: &Value) -> Map<String, Value> {
        body.as_object().unwrap().clone()
    }

    fn refused(body: &Value, purpose: Purpose) -> String {
        let problem = read::<Outer>(object(body), purpose, false).unwrap_err().body();
        format!(
            "{} | {}",
            problem["field"].as_str().unwrap(),
            problem["error"].as_str().unwrap()
        )
    }

    #[test]
    fn unknown_fields_are_refused_at_any_depth_with_the_nearest_name() {
        for (body, error) in [
            (
                json!({"display_name": 1}),
                "display_name | display_name: unknown field; did you mean `displayName`? (this call takes displayName, inner, free)",
            ),
            (
                json!({"inner": {"inboxs": 3, "needed": true}}),
                "inner.inboxs | inner.inboxs: unknown field; did you mean `inner.inboxes`? (inner takes inboxes, needed)",
            ),
            (
                json!({"q\n": 1}),
                r"q\n | q\n: unknown field (this call takes displayName, inner, free)",
            ),
        ] {
            assert_eq!(refused(&body, Purpose::Command), error);
            // What a caller is told first is the name that it mistyped.
            assert_eq!(refused(&body, Purpose::Change), error);
        }
    }

    #[test]
    fn values_keep_their_own_rules() {
        for (body, error) in [
            (
                json!({"displayName": 7}),
                "displayName | displayName: invalid type: integer `7`, expected a string",
            ),
            (
                json!({"inner": {"inboxes": -1, "needed": true}}),
                "inner.inboxes | inner.inboxes: invalid value: integer `-1`, expected u32",
            ),
            (
                json!({"inner": [3, true]}),
                "inner | inner: invalid type: sequence, expected an object",
            ),
            (
                json!({"inner": {"inboxes": 3}}),
                "inner.needed | inner.needed: is required",
            ),
            (
                json!({"free": []}),
                "free | free: invalid type: sequence, expected a map",
            ),
        ] {
            assert_eq!(refused(&body, Purpose::Command), error);
        }
    }

    #[test]
    fn integers_may_have_a_fraction_of_zero() {
        for (text, number) in [
            ("3", 3),
            ("3.0", 3),
            ("3e0", 3),
            ("-0.0", 0),
            ("4294967295.0", u32::MAX),
        ] {
            let body = format!(r#"{{"inner": {{"inboxes": {text}, "needed": true}}}}"#);
            let body = object(&serde_json::from_str(&body).unwrap());
            let (outer, _) = read::<Outer>(body, Purpose::Command, false).unwrap();
            assert_eq!(outer.inner.unwrap().inboxes, Edit::Set(number), "{text}");
        }
        for text in ["1.5", "-1.0", "4294967296", "4294967296.0", "1e300"] {
            let body = format!(r#"{{"inner": {{"inboxes": {text}, "needed": true}}}}"#);
            let refused = refused(&serde_json::from_str(&body).unwrap(), Purpose::Command);
            assert!(refused.starts_with("inner.inboxes | "), "{text}: {refused}");
        }
    }

    #[test]
    fn objects_that_name_nothing_change_nothing() {
        for (body, field) in [(json!({}), "body"), (json!({"inner": {}}), "inner")] {
            let error = refused(&body, Purpose::Change);
            assert!(
                error.starts_with(field) && error.contains("names nothing to change"),
                "{error}"
            );
        }
        assert!(read::<Outer>(Map::new(), Purpose::Command, false).is_ok());
        assert!(read::<Outer>(object(&json!({"free": {}})), Purpose::Change, false).is_ok());
    }

    #[test]
    fn lenient_reading_returns_what_it_leaves_out() {
        let body = json!({"displayName": null, "x": 1, "inner": {"needed": true, "y": 2}, "free": {"z": 3}});
        let (outer, mut ignored) = read::<Outer>(object(&body), Purpose::Change, true).unwrap();
        assert_eq!(outer.display_name, Edit::Clear);
        assert_eq!(outer.inner.unwrap().inboxes, Edit::Keep);
        assert_eq!(outer.free.unwrap(), object(&json!({"z": 3})));
        ignored.sort();
        assert_eq!(ignored, ["inner.y", "x"]);
        assert!(read::<Outer>(object(&json!({"x": 1})), Purpose::Change, true).is_err());
    }

    #[test]
    fn names_are_near_if_few_characters_differ() {
        let known = ["username", "displayName", "domain", "metadata", "workspaceId"];
        for (name, expected) in [
            ("userName", Some("username")),
            ("user_name", Some("username")),
            ("usernmae", Some("username")),
            ("WorkspaceID", Some("workspaceId")),
            ("workspace", Some("workspaceId")),
            ("meta-data", Some("metadata")),
            ("email", None),
            ("", None),
            ("ü", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }
}
