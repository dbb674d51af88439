//! What the bodies of requests may hold: the fields that are described, and nothing else.

use std::collections::BTreeSet;

use utoipa::openapi::{
    OpenApi, RefOr,
    path::Operation,
    schema::{AdditionalProperties, KnownFormat, Object, Schema, SchemaFormat},
};

/// A UUID. A format is no more than a hint to most readers.
const UUID_PATTERN: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";

/// Describes that unknown fields are refused, that a change has to name something, and what an id is.
pub(super) fn close(document: &mut OpenApi) {
    let (mut bodies, mut changes) = (BTreeSet::new(), BTreeSet::new());
    for item in document.paths.paths.values() {
        for operation in [&item.post, &item.put].into_iter().flatten() {
            bodies.extend(body_of(operation));
        }
        changes.extend(item.patch.iter().flat_map(body_of));
    }
    bodies.extend(changes.iter().cloned());
    let Some(components) = &mut document.components else {
        return;
    };
    let mut closed = BTreeSet::new();
    while let Some(name) = bodies.pop_first() {
        if let Some(RefOr::T(Schema::Object(body))) = components.schemas.get_mut(&name) {
            body.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            body.min_properties = changes.contains(&name).then_some(1);
            for member in body.properties.values_mut() {
                describe_id(member);
                bodies.extend(named_in(member).filter(|inner| !closed.contains(inner)));
            }
        }
        closed.insert(name);
    }
}

/// The names of the schemas of a call's body.
fn body_of(operation: &Operation) -> Vec<String> {
    let Some(RefOr::T(body)) = &operation.request_body else {
        return Vec::new();
    };
    let schemas = body.content.values().filter_map(|content| match content {
        RefOr::T(content) => content.schema.as_ref(),
        RefOr::Ref(_) => None,
    });
    schemas.flat_map(named_in).collect()
}

/// The names of the schemas that a schema is, or may be.
fn named_in(schema: &RefOr<Schema>) -> impl Iterator<Item = String> + use<> {
    let alternatives = match schema {
        RefOr::T(Schema::OneOf(one_of)) => one_of.items.as_slice(),
        schema => std::slice::from_ref(schema),
    };
    let names: Vec<String> = alternatives
        .iter()
        .filter_map(|schema| match schema {
            RefOr::Ref(named) => named.ref_location.rsplit('/').next().map(str::to_owned),
            RefOr::T(_) => None,
        })
        .collect();
    names.into_iter()
}

fn describe_id(member: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(Object {
        format: Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)),
        pattern: pattern @ None,
        ..
    })) = member
    {
        *pattern = Some(UUID_PATTERN.to_owned());
    }
}
