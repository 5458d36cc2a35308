"""What happens to a log whose end is lost, in the same database."""


def lose_end(sql, group, seq):
    """Set a group's log back to this seq, as a restore does, and begin an epoch. Return the epoch."""
    sql("ALTER TABLE groups DISABLE TRIGGER USER")
    sql("DELETE FROM events WHERE group_id = %s AND seq > %s", group, seq)
    sql("UPDATE groups SET seq = %s WHERE id = %s", seq, group)
    sql("ALTER TABLE groups ENABLE TRIGGER USER")
    return sql("SELECT att_begin_epoch()")[0][0]
