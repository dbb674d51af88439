# The three images of docker-compose.yml: inboxd, dovecot, postfix. One file, because all three hold the same program
# and the same users: `inboxd stack run` renders a mail server's configuration at each start and runs it.

# Built for the libraries of the images below. The dependencies are a layer of their own, which changes with Cargo.lock.
FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' >src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && rm -r src
COPY src src
COPY migrations migrations
# Newer than what was built of the empty files.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked

# The users and groups have the same numbers in all images, because the volumes are shared: inboxd gives the password
# entries to the group dovecot and the tables to the group postfix, and Dovecot gives its sockets to both. Folders that
# a volume is mounted on are made here, because a new volume takes owner and mode from there.
FROM debian:trixie-slim AS base
RUN groupadd --system --gid 900 inboxd \
 && groupadd --system --gid 901 postfix \
 && groupadd --system --gid 902 postdrop \
 && groupadd --system --gid 903 dovecot \
 && groupadd --system --gid 904 dovenull \
 && useradd --system --uid 900 --gid inboxd --groups dovecot,postfix --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin inboxd \
 && useradd --system --uid 901 --gid postfix --no-create-home --home-dir /var/spool/postfix --shell /usr/sbin/nologin postfix \
 && useradd --system --uid 903 --gid dovecot --no-create-home --home-dir /usr/lib/dovecot --shell /usr/sbin/nologin dovecot \
 && useradd --system --uid 904 --gid dovenull --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dovenull \
 && install -d -o inboxd -g inboxd -m 0755 /var/lib/inboxd /var/lib/inboxd/maps /var/lib/inboxd/maps/passdb /var/lib/inboxd/maps/postfix \
      /var/lib/inboxd/tls /var/lib/inboxd/server-tls /etc/inboxd/certs /run/inboxd-signer /run/inboxd-inbound \
 && install -d -o inboxd -g inboxd -m 0700 /var/lib/inboxd/store /var/lib/inboxd/doveadm /var/lib/inboxd/maps/signer \
 && install -d -m 0755 /run/dovecot /run/inboxd

FROM base AS inboxd
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/inboxd /usr/bin/inboxd
USER inboxd
ENTRYPOINT ["inboxd"]
CMD ["serve"]

FROM base AS dovecot
RUN apt-get update \
 && apt-get install --yes --no-install-recommends dovecot-imapd dovecot-lmtpd dovecot-sieve dovecot-auth-lua \
 && rm -rf /var/lib/apt/lists/* /etc/dovecot/private \
 && ln -sf /run/inboxd/dovecot.conf /etc/dovecot/dovecot.conf \
 && install -d -o 5000 -g 5000 -m 0700 /var/vmail \
 && install -d -o root -g postfix -m 0750 /var/spool/postfix/inboxd
COPY --from=build /src/target/release/inboxd /usr/bin/inboxd
ENTRYPOINT ["inboxd"]
CMD ["stack", "run", "dovecot"]

FROM base AS postfix
RUN echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections \
 && apt-get update \
 && apt-get install --yes --no-install-recommends postfix postfix-lmdb ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf /run/inboxd/main.cf /run/inboxd/master.cf /etc/postfix/ \
 && install -d -o root -g postfix -m 0750 /var/spool/postfix/inboxd
COPY --from=build /src/target/release/inboxd /usr/bin/inboxd
ENTRYPOINT ["inboxd"]
CMD ["stack", "run", "postfix"]
