-- Token shards carry the extents that documents' keys seal, and do not seal them a second time. Those of before are let go:
-- they are made again from their snapshot when a run next needs them. A run that was interrupted over them cannot go on.
UPDATE objects SET state = 'staged', job = NULL WHERE id IN (SELECT id FROM shards);
DELETE FROM shards;
UPDATE runs SET state = 'failed' WHERE state IN ('running', 'interrupted');
