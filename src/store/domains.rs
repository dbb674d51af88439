//! Custom domains. The service's default domain is configuration and has no row.

use super::{Error, Tx, on};
use crate::{
    clock::Timestamp,
    model::{address::DomainName, ids::WorkspaceId},
};

impl Tx {
    /// Whether a workspace has registered a domain: `None` if not, else since when it is verified, if it is.
    pub async fn domain_of_workspace(
        &mut self,
        workspace: WorkspaceId,
        domain: &DomainName,
    ) -> Result<Option<Option<Timestamp>>, Error> {
        let verified_at: Option<Option<i64>> = on!(self, db => sqlx::query_scalar(
                "SELECT verified_at FROM domains WHERE workspace_id = $1 AND name = $2",
            )
            .bind(workspace.0)
            .bind(domain.as_str())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up a domain of a workspace"))?;
        Ok(verified_at.map(|at| at.map(Timestamp::from_micros)))
    }

    /// Whether some workspace has verified this domain, so that mail for it is accepted.
    pub async fn is_verified_domain(&mut self, domain: &DomainName) -> Result<bool, Error> {
        let found: Option<i32> = on!(self, db => sqlx::query_scalar(
                "SELECT 1 FROM domains WHERE name = $1 AND verified_at IS NOT NULL",
            )
            .bind(domain.as_str())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up a verified domain"))?;
        Ok(found.is_some())
    }

    /// Every verified domain, in order of its octets.
    pub async fn verified_domains(&mut self) -> Result<Vec<DomainName>, Error> {
        let names: Vec<String> = on!(self, db => sqlx::query_scalar(
                "SELECT name FROM domains WHERE verified_at IS NOT NULL ORDER BY name",
            )
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list the verified domains"))?;
        names
            .iter()
            .map(|name| DomainName::parse(name).map_err(Error::row("a domain")))
            .collect()
    }
}
