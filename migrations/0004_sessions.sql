-- Which tokens came of a log-in: they end with the password that they came of. Sealed with the token as well.
ALTER TABLE tokens ADD COLUMN session INTEGER NOT NULL DEFAULT 0;
