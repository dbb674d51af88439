//! The caller's own data on an inbox: a JSON object, changed by JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

use super::Refused;

/// Largest metadata, in octets of compact JSON.
pub const METADATA_MAX_OCTETS: usize = 16 * 1024;

/// A JSON object of at most 16 KiB.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// What a caller is told when metadata is refused.
    pub const RULE: &'static str = "must be a JSON object that takes at most 16 KiB";

    /// From an object.
    pub fn new(object: Map<String, Value>) -> Result<Self, Refused> {
        Self(object).checked()
    }

    /// From the text that [`Metadata::to_json`] writes.
    pub fn from_json(text: &str) -> Result<Self, Refused> {
        let object = serde_json::from_str(text).map_err(|_| Refused::because(Self::RULE))?;
        Self(object).checked()
    }

    /// Compact JSON.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// The object.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// This metadata with a merge patch applied: a null deletes a member, an object is merged into its
    /// namesake, anything else replaces.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Self, Refused> {
        let mut target = self.0.clone();
        merge(&mut target, patch);
        Self(target).checked()
    }

    fn checked(self) -> Result<Self, Refused> {
        if self.to_json().len() <= METADATA_MAX_OCTETS {
            Ok(self)
        } else {
            Err(Refused::because(Self::RULE))
        }
    }
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) => {
                let member = target.entry(name.clone()).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(object) = member {
                    merge(object, inner);
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(target: &str, patch: &Value) -> String {
        Metadata::from_json(target)
            .unwrap()
            .patched(patch.as_object().unwrap())
            .unwrap()
            .to_json()
    }

    #[test]
    fn patches_follow_rfc_7396() {
        // The object cases of RFC 7396, appendix A.
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, json!({"a":"c"}), r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, json!({"b":"c"}), r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, json!({"a":null}), r"{}"),
            (r#"{"a":"b","b":"c"}"#, json!({"a":null}), r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, json!({"a":"c"}), r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, json!({"a":["b"]}), r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                json!({"a":{"b":"d","c":null}}),
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, json!({"a":[1]}), r#"{"a":[1]}"#),
            (r#"{"e":null}"#, json!({"a":1}), r#"{"a":1,"e":null}"#),
            (r"{}", json!({"a":{"bb":{"ccc":null}}}), r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(patched(target, &patch), result, "{target} with {patch}");
        }
    }

    #[test]
    fn metadata_over_16_kib_is_refused() {
        let fits = json!({ "k": "x".repeat(METADATA_MAX_OCTETS - 8) });
        assert!(Metadata::default().patched(fits.as_object().unwrap()).is_ok());
        let too_large = json!({ "k": "x".repeat(METADATA_MAX_OCTETS - 7) });
        assert!(
            Metadata::default()
                .patched(too_large.as_object().unwrap())
                .is_err()
        );
        assert!(Metadata::from_json("[]").is_err());
    }
}
