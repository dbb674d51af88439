//! Configuration for Dovecot and Postfix, rendered, and the private stack made of it.
