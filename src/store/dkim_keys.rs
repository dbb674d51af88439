//! The keys that domains sign their mail with. The private halves are sealed.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Owner, Tx, on, one_row, values};
use crate::{
    clock::Timestamp,
    model::{
        address::DomainName,
        dkim::{Algorithm, PublicKey, SealedSigningKey, Selector},
        domain::{DkimKey, signing},
        ids::{DkimKeyId, DomainId},
    },
};

#[derive(FromRow)]
struct KeyRow {
    id: Uuid,
    selector: String,
    algorithm: String,
    public_key: Vec<u8>,
    created_at: i64,
    seen_at: Option<i64>,
    retired_at: Option<i64>,
}

#[derive(FromRow)]
struct SealedKeyRow {
    name: Option<String>,
    sealed_private_key: Vec<u8>,
    #[sqlx(flatten)]
    key: KeyRow,
}

impl KeyRow {
    fn parse(self) -> Result<DkimKey, Error> {
        let what = "a DKIM key";
        Ok(DkimKey {
            id: DkimKeyId(self.id),
            public: PublicKey {
                selector: Selector::parse(&self.selector).map_err(Error::row(what))?,
                algorithm: Algorithm::parse(&self.algorithm).map_err(Error::row(what))?,
                octets: self.public_key,
            },
            created_at: Timestamp::from_micros(self.created_at),
            seen_at: self.seen_at.map(Timestamp::from_micros),
            retired_at: self.retired_at.map(Timestamp::from_micros),
        })
    }
}

impl Tx {
    /// Writes a new key of a domain; of none: of the default domain.
    pub async fn insert_dkim_key(
        &mut self,
        domain: Option<DomainId>,
        key: &DkimKey,
        sealed_private: &[u8],
    ) -> Result<(), Error> {
        let doing = "insert a DKIM key";
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO dkim_keys (id, domain_id, selector, algorithm, public_key, sealed_private_key, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(key.id.0)
            .bind(domain.map(|domain| domain.0))
            .bind(key.public.selector.as_str())
            .bind(key.public.algorithm.as_str())
            .bind(key.public.octets.as_slice())
            .bind(sealed_private)
            .bind(key.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// The keys of a domain (of none: of the default domain), the oldest first, and of those that were made together RSA
    /// first.
    pub async fn dkim_keys(&mut self, domain: Option<DomainId>) -> Result<Vec<DkimKey>, Error> {
        let rows: Vec<KeyRow> = match domain {
            Some(domain) => on!(self, db => sqlx::query_as(
                    "SELECT id, selector, algorithm, public_key, created_at, seen_at, retired_at FROM dkim_keys
                     WHERE domain_id = $1",
                )
                .bind(domain.0)
                .fetch_all(db)
                .await),
            None => on!(self, db => sqlx::query_as(
                    "SELECT id, selector, algorithm, public_key, created_at, seen_at, retired_at FROM dkim_keys
                     WHERE domain_id IS NULL",
                )
                .fetch_all(db)
                .await),
        }
        .map_err(Error::while_doing("list the DKIM keys of a domain"))?;
        let mut keys: Vec<DkimKey> = rows.into_iter().map(KeyRow::parse).collect::<Result<_, _>>()?;
        keys.sort_by_key(|key| (key.created_at, key.public.algorithm));
        Ok(keys)
    }

    /// What mail of each of these verified domains is signed with, and mail of the default domain, which has no name here.
    /// No names: of every domain. At most [`super::ROWS_MAX`] names.
    pub(super) async fn signing_keys(
        &mut self,
        names: Option<&[&DomainName]>,
    ) -> Result<HashMap<Option<DomainName>, Vec<SealedSigningKey>>, Error> {
        let only = names.map_or_else(String::new, |names| {
            format!(" AND d.name IN ({})", values::list(names.len(), 1))
        });
        let columns = "k.id, k.selector, k.algorithm, k.public_key, k.created_at, k.seen_at, k.retired_at";
        let sql = format!(
            "SELECT d.name, k.sealed_private_key, {columns} FROM dkim_keys k JOIN domains d ON d.id = k.domain_id
             WHERE d.verified_at IS NOT NULL AND d.deleted_at IS NULL{only}
             UNION ALL SELECT NULL, k.sealed_private_key, {columns} FROM dkim_keys k WHERE k.domain_id IS NULL"
        );
        let rows: Vec<SealedKeyRow> = on!(self, db => {
            let count = names.map_or(0, <[_]>::len);
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(count));
            for name in names.unwrap_or_default() {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("list what mail is signed with"))?;
        let mut keys: HashMap<Option<DomainName>, Vec<DkimKey>> = HashMap::new();
        let mut sealed: HashMap<DkimKeyId, Vec<u8>> = HashMap::with_capacity(rows.len());
        for row in rows {
            let name = row.name.as_deref().map(DomainName::parse).transpose();
            let key = row.key.parse()?;
            sealed.insert(key.id, row.sealed_private_key);
            keys.entry(name.map_err(Error::row("a domain"))?)
                .or_default()
                .push(key);
        }
        let mut of_domain = |keys: Vec<DkimKey>| -> Vec<SealedSigningKey> {
            let signing = signing(&keys).into_iter();
            let sealed = |key: &DkimKey| SealedSigningKey {
                id: key.id,
                selector: key.public.selector.clone(),
                algorithm: key.public.algorithm,
                sealed: sealed.remove(&key.id).unwrap_or_default(),
            };
            signing.map(sealed).collect()
        };
        Ok(keys
            .into_iter()
            .map(|(name, keys)| (name, of_domain(keys)))
            .collect())
    }

    /// Writes when a key's record was first seen, and since when it signs no more.
    pub async fn update_dkim_key(&mut self, key: &DkimKey) -> Result<(), Error> {
        let doing = "update a DKIM key";
        let rows =
            on!(self, db => sqlx::query("UPDATE dkim_keys SET seen_at = $2, retired_at = $3 WHERE id = $1")
            .bind(key.id.0)
            .bind(key.seen_at.map(Timestamp::as_micros))
            .bind(key.retired_at.map(Timestamp::as_micros))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
            .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Forgets a key for ever.
    pub async fn delete_dkim_key(&mut self, id: DkimKeyId) -> Result<(), Error> {
        on!(self, db => sqlx::query("DELETE FROM dkim_keys WHERE id = $1").bind(id.0).execute(db).await.map(drop))
            .map_err(Error::while_doing("delete a DKIM key"))
    }

    /// Forgets the keys of a domain for ever.
    pub async fn delete_dkim_keys(&mut self, domain: DomainId) -> Result<(), Error> {
        on!(self, db => sqlx::query("DELETE FROM dkim_keys WHERE domain_id = $1")
            .bind(domain.0)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing("delete the DKIM keys of a domain"))
    }

    /// Forgets the keys of all domains of an owner for ever.
    pub async fn delete_dkim_keys_of(&mut self, owner: Owner) -> Result<(), Error> {
        let sql = match owner {
            Owner::Tenant(_) => {
                "DELETE FROM dkim_keys WHERE domain_id IN (SELECT id FROM domains WHERE tenant_id = $1 AND deleted_at IS NULL)"
            }
            Owner::Workspace(_) => {
                "DELETE FROM dkim_keys WHERE domain_id IN (SELECT id FROM domains WHERE workspace_id = $1 AND deleted_at IS NULL)"
            }
            Owner::Inbox(_) => return Ok(()),
        };
        on!(self, db => sqlx::query(sql).bind(owner.id()).execute(db).await.map(drop))
            .map_err(Error::while_doing("delete the DKIM keys of an owner"))
    }
}
