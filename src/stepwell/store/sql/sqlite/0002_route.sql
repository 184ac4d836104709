-- usable from: 2

-- Whom a job has to reach, when not every node can.
ALTER TABLE job ADD COLUMN route TEXT;
