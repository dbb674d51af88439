//! Both migrations give the same tables.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::support::{daemon::Database, store::Store};

/// What a database's catalogue says, in words that both share.
#[derive(PartialEq, Eq, Debug, Default)]
struct Schema {
    /// `table.column` to its type and whether it may be null.
    columns: BTreeMap<String, (String, bool)>,
    /// Name, whether it is unique, columns, and the condition of a partial one; a primary key's name is `table pk`.
    indexes: BTreeSet<(String, bool, String, String)>,
    /// `table.column -> table.column`, and whether it is checked at commit.
    references: BTreeSet<(String, bool)>,
}

/// The same word for what a value is, whatever the database calls it.
fn type_of(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "text" => "text",
        "integer" | "bigint" => "integer",
        "blob" | "bytea" | "uuid" => "octets",
        other => panic!("a type that the schema does not use: {other}"),
    }
    .to_owned()
}

fn condition(text: &str) -> String {
    let plain = text.replace(['(', ')'], " ");
    plain
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

async fn sqlite(url: &str) -> Schema {
    let mut db = SqliteConnection::connect(url).await.unwrap();
    let mut schema = Schema::default();
    let columns: Vec<(String, String, String, bool)> = sqlx::query_as(
        r#"SELECT t.name, c.name, c.type, c."notnull" FROM sqlite_master t JOIN pragma_table_info(t.name) c
           WHERE t.type = 'table'"#,
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, column, kind, not_null) in columns {
        if table != "_sqlx_migrations" {
            schema
                .columns
                .insert(format!("{table}.{column}"), (type_of(&kind), !not_null));
        }
    }
    let indexes: Vec<(String, String, bool, String, Option<String>, String)> = sqlx::query_as(
        r#"SELECT t.name, i.name, i."unique", i.origin, m.sql,
             (SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno))
           FROM sqlite_master t JOIN pragma_index_list(t.name) i LEFT JOIN sqlite_master m ON m.name = i.name
           WHERE t.type = 'table'"#,
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, name, unique, origin, sql, columns) in indexes {
        if table == "_sqlx_migrations" {
            continue;
        }
        let name = if origin == "pk" {
            format!("{table} pk")
        } else {
            name
        };
        let partial = sql
            .as_deref()
            .and_then(|sql| sql.split_once(" WHERE "))
            .map_or_else(String::new, |(_, where_)| condition(where_));
        schema.indexes.insert((name, unique, columns, partial));
    }
    let references: Vec<(String, String, String, String, String)> = sqlx::query_as(
        r#"SELECT t.name, f."from", f."table", f."to", t.sql FROM sqlite_master t JOIN pragma_foreign_key_list(t.name) f
           WHERE t.type = 'table'"#,
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, from, target, to, sql) in references {
        // A column that was added later stands behind a comma.
        let line = sql
            .split(['\n', ','])
            .find(|line| line.trim().starts_with(&format!("{from} ")))
            .unwrap();
        schema.references.insert((
            format!("{table}.{from} -> {target}.{to}"),
            line.contains("DEFERRABLE INITIALLY DEFERRED"),
        ));
    }
    schema
}

async fn postgres(url: &str) -> Schema {
    let mut db = PgConnection::connect(url).await.unwrap();
    let mut schema = Schema::default();
    let columns: Vec<(String, String, String, String, Option<String>)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, data_type::text, is_nullable::text, collation_name::text
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, column, kind, nullable, collation) in columns {
        if kind == "text" {
            assert_eq!(
                collation.as_deref(),
                Some("C"),
                "{table}.{column} must sort as SQLite does"
            );
        }
        schema
            .columns
            .insert(format!("{table}.{column}"), (type_of(&kind), nullable == "YES"));
    }
    let indexes: Vec<(String, String, bool, bool, String, Option<String>)> = sqlx::query_as(
        "SELECT t.relname::text, c.relname::text, i.indisunique, i.indisprimary,
             (SELECT string_agg(a.attname::text, ',' ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY k(number, place)
              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number),
             pg_get_expr(i.indpred, i.indrelid)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
         JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE n.nspname = 'public' AND t.relname <> '_sqlx_migrations'",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, name, unique, primary, columns, partial) in indexes {
        let name = if primary { format!("{table} pk") } else { name };
        let partial = partial.as_deref().map_or_else(String::new, condition);
        schema.indexes.insert((name, unique, columns, partial));
    }
    let references: Vec<(String, String, String, String, bool)> = sqlx::query_as(
        "SELECT c.conrelid::regclass::text, a.attname::text, c.confrelid::regclass::text, b.attname::text, c.condeferred
         FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
         JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1] WHERE c.contype = 'f'",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (table, from, target, to, deferred) in references {
        schema
            .references
            .insert((format!("{table}.{from} -> {target}.{to}"), deferred));
    }
    schema
}

#[tokio::test]
async fn both_migrations_give_the_same_tables_columns_indexes_and_references() {
    let lite = Store::new(Database::Sqlite).await;
    let server = Store::new(Database::Postgres).await;
    let (lite, server) = (sqlite(&lite.url).await, postgres(&server.url).await);
    assert!(lite.columns.len() > 50 && lite.indexes.len() > 20 && lite.references.len() > 10);
    assert_eq!(lite.columns, server.columns);
    assert_eq!(lite.indexes, server.indexes);
    assert_eq!(lite.references, server.references);
}

#[tokio::test]
async fn a_store_is_opened_again_with_what_was_in_it() {
    for database in Database::ALL {
        let store = Store::new(database).await;
        let tenant = store
            .tenant("Acme", inboxd::model::limits::Limits::default())
            .await;
        store.db.close().await;
        let again = crate::support::store::open(&store.url).await;
        let mut tx = again.read().await.unwrap();
        assert_eq!(tx.tenant(tenant.id).await.unwrap(), Some(tenant), "{database:?}");
    }
}
