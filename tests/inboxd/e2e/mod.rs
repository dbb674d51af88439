//! The whole program with its mail servers: what was answered is what IMAP and SMTP do.

mod mailbox;
