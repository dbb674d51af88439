//! Custom domains, written straight into the store: there is no call for them yet.

use sqlx::{Connection as _, PgConnection, SqliteConnection};
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
    // Both databases take a UUID in hexadecimal, each in its own words.
    let sqlite = daemon.store_url.strip_prefix("sqlite:");
    let literal = |id: Uuid| {
        if sqlite.is_some() {
            format!("x'{}'", id.simple())
        } else {
            format!("'{id}'")
        }
    };
    let verified_at = if verified { "1" } else { "NULL" };
    let sql = sqlx::AssertSqlSafe(format!(
        "INSERT INTO domains (id, tenant_id, workspace_id, name, created_at, verified_at) VALUES ({}, {}, {}, '{name}', 1, {verified_at})",
        literal(Uuid::from_u128(
            name.bytes().fold(1, |sum, byte| sum * 31 + u128::from(byte))
        )),
        literal(tenant_id),
        literal(workspace_id),
    ));
    if let Some(file) = sqlite {
        let mut connection = SqliteConnection::connect(file).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = PgConnection::connect(&daemon.store_url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    name.to_owned()
}
