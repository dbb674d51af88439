//! `inboxd keys`.

use clap::Subcommand;

use super::{Failure, Source, block_on, print};
use crate::{clock::Machine, daemon, ops::keys::create_super_admin};

#[derive(Subcommand, Debug)]
pub(super) enum KeysCommand {
    /// Make a key and print it; it is shown only now
    Create {
        /// A super admin (sa_) key, which manages tenants; other kinds are made through the API
        #[arg(long, required = true)]
        super_admin: bool,
        #[command(flatten)]
        source: Source,
    },
}

pub(super) fn keys(command: KeysCommand) -> Result<(), Failure> {
    let KeysCommand::Create {
        super_admin: _,
        source,
    } = command;
    let config = source.load()?;
    block_on(async {
        let db = daemon::open_store(&config).await?;
        let key = create_super_admin(&db, &Machine, &Machine).await?;
        db.close().await;
        print(&format!("{}\n", key.expose()))
    })
}
