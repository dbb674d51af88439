//! The default domain: it is the operator's, who need not prove it. Its mail is signed as that of custom domains is.

use super::{
    super::{Changed, Error, Service, Settings},
    checked::{Judged, settle_keys, signing_ids},
    dkim::{NewKey, is_rotating},
};
use crate::{
    model::{
        dns_records::{self, DnsRecord, Wanted, judge::Judgement},
        domain::DkimKey,
        maps::MapKey,
    },
    store::{SessionsToEnd, Tx},
};

fn wanted(settings: &Settings, keys: &[DkimKey]) -> Wanted {
    Wanted {
        domain: settings.default_domain.clone(),
        challenge: None,
        mx_host: settings.domains.mx_host.clone(),
        spf: settings.domains.spf.clone(),
        keys: keys.iter().map(|key| key.public.clone()).collect(),
    }
}

async fn mark(service: &Service, tx: &mut Tx) -> Result<Vec<MapKey>, Error> {
    let domain = MapKey::Domain(service.settings.default_domain.clone());
    service.mark_each(tx, [(domain, SessionsToEnd::None)]).await
}

/// Makes keys for the default domain, if it has none yet: mail from it is signed from the first one on.
pub async fn ensure_default_keys(service: &Service) -> Result<Changed<()>, Error> {
    let nothing = Changed {
        value: (),
        publish: Vec::new(),
    };
    if !service.db.read().await?.dkim_keys(None).await?.is_empty() {
        return Ok(nothing);
    }
    let turn = service.turn_to_make_keys(None).await?;
    let keys = service.new_dkim_keys(&turn).await?;
    let mut tx = service.db.write().await?;
    if !tx.dkim_keys(None).await?.is_empty() {
        return Ok(nothing);
    }
    for NewKey { key, sealed } in keys {
        tx.insert_dkim_key(None, &key, &sealed).await?;
    }
    let domain = MapKey::Domain(service.settings.default_domain.clone());
    let publish = service
        .mark_each(&mut tx, [(domain, SessionsToEnd::None)])
        .await?;
    tx.commit().await?;
    Ok(Changed { value: (), publish })
}

/// The records that the default domain needs.
pub async fn default_records(service: &Service) -> Result<Vec<DnsRecord>, Error> {
    let keys = service.db.read().await?.dkim_keys(None).await?;
    Ok(dns_records::records(&wanted(&service.settings, &keys)))
}

/// Asks DNS for the records of the default domain. A key whose record is seen signs from then on.
pub async fn check_default(service: &Service) -> Result<Changed<Vec<(DnsRecord, Judgement)>>, Error> {
    let keys = service.db.read().await?.dkim_keys(None).await?;
    let judged = Judged::ask(service, &wanted(&service.settings, &keys)).await;
    let mut tx = service.db.write().await?;
    let mut keys = tx.dkim_keys(None).await?;
    let before = signing_ids(&keys);
    settle_keys(&mut tx, &mut keys, &judged, service.now()).await?;
    let publish = if signing_ids(&keys) == before {
        Vec::new()
    } else {
        mark(service, &mut tx).await?
    };
    tx.commit().await?;
    Ok(Changed {
        value: judged.0,
        publish,
    })
}

/// Makes keys for the default domain that sign when their records have been seen. While keys wait for that, no others are
/// made. Returns the records that it needs then.
pub async fn rotate_default(service: &Service) -> Result<Vec<DnsRecord>, Error> {
    let turn = service.turn_to_make_keys(None).await?;
    let new = service.new_dkim_keys(&turn).await?;
    let mut tx = service.db.write().await?;
    let mut keys = tx.dkim_keys(None).await?;
    if !is_rotating(&keys) {
        for NewKey { key, sealed } in new {
            tx.insert_dkim_key(None, &key, &sealed).await?;
            keys.push(key);
        }
    }
    tx.commit().await?;
    Ok(dns_records::records(&wanted(&service.settings, &keys)))
}
