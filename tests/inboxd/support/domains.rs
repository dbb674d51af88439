//! Custom domains, written straight into the store: there is no call for them yet.

use sqlx::{AnyConnection, Connection as _};
use uuid::Uuid;

use super::{api::Api, daemon::Daemon};

/// Registers a domain for the default workspace of the caller's tenant, verified or pending. Returns its name.
pub async fn insert_domain(daemon: &Daemon, tenant: &Api, name: &str, verified: bool) -> String {
    let me = tenant.get("/v1/me").await;
    let workspaces = tenant.get("/v1/workspaces").await;
    let all = workspaces.body["workspaces"].as_array().unwrap();
    let default = all
        .iter()
        .find(|workspace| workspace["isDefault"] == true)
        .unwrap();
    let id = |value: &serde_json::Value| Uuid::parse_str(value.as_str().unwrap()).unwrap();
    let (tenant_id, workspace_id) = (id(&me.body["tenantId"]), id(&default["id"]));
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&daemon.store_url).await.unwrap();
    // Both databases take a UUID as hexadecimal text, each in its own words.
    let literal = |id: Uuid| match daemon.store_url.starts_with("sqlite") {
        true => format!("x'{}'", id.simple()),
        false => format!("'{id}'"),
    };
    let verified_at = if verified { "1" } else { "NULL" };
    let sql = format!(
        "INSERT INTO domains (id, tenant_id, workspace_id, name, created_at, verified_at) VALUES ({}, {}, {}, '{name}', 1, {verified_at})",
        literal(Uuid::from_u128(
            name.bytes().fold(1, |sum, byte| sum * 31 + u128::from(byte))
        )),
        literal(tenant_id),
        literal(workspace_id),
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    name.to_owned()
}
