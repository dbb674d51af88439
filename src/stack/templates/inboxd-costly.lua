
-- What is above is inboxd.lua. This is what the second password database adds: it runs in worker processes, and verifies
-- there what takes long, so that no other login waits for it.
function auth_password_verify(req, password)
  local found, result, reason = login(req)
  if found == nil then return result, reason end
  local matches = req:password_verify(found.hash, password)
  if matches == 0 then return dovecot.auth.PASSDB_RESULT_PASSWORD_MISMATCH, "password mismatch" end
  if matches ~= 1 then return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "cannot verify the password" end
  return dovecot.auth.PASSDB_RESULT_OK, answer_of(found, req.service or req.protocol)
end
