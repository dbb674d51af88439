# What inboxd has marked when it judged arriving mail goes to Junk. The mark of anybody else was removed before.
# Dovecot reads the binary that `sievec` makes of this file.
require ["fileinto"];

if header :contains "X-Inboxd-Junk" "yes" {
    fileinto "Junk";
}
