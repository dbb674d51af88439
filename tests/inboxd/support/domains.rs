//! Custom domains: proved as their owners do, or, where no DNS is at hand, written straight into the store.

use sqlx::{Connection as _, PgConnection, SqliteConnection};
use uuid::Uuid;

use serde_json::json;

use super::{
    api::{Answer, Api},
    daemon::Daemon,
    dns::DnsServer,
};

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
        "INSERT INTO domains (id, tenant_id, workspace_id, name, challenge, created_at, verified_at) VALUES ({}, {}, {}, '{name}', 'x', 1, {verified_at})",
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

/// The host that MX records name in these tests.
pub const MX_HOST: &str = "mail.inboxd.test";

/// A name server that knows where that host is.
pub async fn name_server() -> DnsServer {
    let mut server = DnsServer::start().await;
    server.set_zone("inboxd.test", "mail A 127.0.0.1").await;
    server
}

/// What a daemon has to be told to ask it.
pub fn asking(server: &DnsServer) -> String {
    format!(
        "domains.mx_host = \"{MX_HOST}\"\ndns.servers = [\"{}\"]\n",
        server.address()
    )
}

/// Registers a domain.
pub async fn register(api: &Api, name: &str) -> Answer {
    api.post("/v1/domains", &json!({"domain": name})).await
}

/// The records that the domain needs, as a zone file.
pub async fn zone_of(api: &Api, name: &str) -> String {
    let http = reqwest::Client::new();
    let url = format!("{}/v1/domains/{name}/zone", api.base);
    let answer = http.get(url).header("X-API-Key", &api.key).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/dns; charset=utf-8");
    answer.text().await.unwrap()
}

/// Publishes all that a domain needs.
pub async fn publish(server: &mut DnsServer, api: &Api, name: &str) {
    let zone = zone_of(api, name).await;
    server.set_zone(name, &zone).await;
}

/// Lets inboxd look at the records.
pub async fn verify(api: &Api, name: &str) -> Answer {
    api.get(&format!("/v1/domains/{name}/verify")).await
}

/// Registers a domain, publishes what it needs, and proves it.
pub async fn prove(server: &mut DnsServer, api: &Api, name: &str) {
    let registered = register(api, name).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    publish(server, api, name).await;
    let verified = verify(api, name).await;
    assert_eq!(
        (verified.status, verified.text("status")),
        (200, "verified"),
        "{verified:?}"
    );
}
