"""Users and the rules of their changes, without I/O."""

from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from att.accounts.users import NewUser, User, UserChange, check_change, check_passwords, check_role_assignment, row_of
from att.errors import InvalidInput, NotPermitted

ANN, BOB = UUID(int=1), UUID(int=2)
USER = User(ANN, "Ann", "Änne", "Straße", date(1999, 12, 31), datetime(2026, 1, 1, tzinfo=UTC), "User", True)
NOBODY, WRITER, GIVER, ADMINISTRATOR = (
    frozenset(held) for held in ([], ["users.write"], ["users.write", "roles.write"], ["*"])
)


def test_version():
    """The version changes with any field, and only then."""
    others = [
        USER._replace(id=BOB),
        USER._replace(login="ann"),
        USER._replace(first_name="Straße", last_name="Änne"),
        USER._replace(first_name="ÄnneStraße", last_name=""),
        USER._replace(birth_date=None),
        USER._replace(registered_at=datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        USER._replace(role="Admin"),
        USER._replace(active=False),
    ]
    assert len({user.version for user in (USER, *others)}) == 1 + len(others)
    assert User(*USER).version == USER.version
    assert USER.version.isascii()
    assert '"' not in USER.version


def test_row():
    """Keys are folded, and the search text has a line each for login, first and last name."""
    row = row_of(USER)
    assert (row["login"], row["login_key"], row["last_name_key"]) == ("Ann", "ann", "strasse")
    assert row["search_text"] == "ann\nänne\nstrasse"
    assert (row["role_key"], row["is_active"]) == ("user", True)
    assert row_of(NewUser("Bob"))["search_text"] == "bob\n\n"


@pytest.mark.parametrize(
    ("held", "theirs", "may"),
    [
        (NOBODY, NOBODY, False),
        (["users.read"], NOBODY, False),
        (WRITER, NOBODY, True),
        (WRITER, WRITER, True),
        (WRITER, ["users.read"], False),
        (WRITER, ADMINISTRATOR, False),
        (GIVER, ["roles.write"], True),
        (ADMINISTRATOR, ADMINISTRATOR, True),
        (ADMINISTRATOR, GIVER, True),
    ],
)
def test_change_of_somebody_else(held, theirs, may):
    """It needs users.write and all permissions of the user."""
    if may:
        check_change(held, {"password": "x"}, is_own=False, user_permissions=theirs)
    else:
        with pytest.raises(NotPermitted):
            check_change(held, {"password": "x"}, is_own=False, user_permissions=theirs)


def test_change_of_oneself():
    """One may change all of one's own values; role and active need users.write, and the error says so."""
    check_change(NOBODY, dict.fromkeys(NewUser._fields[:5]), is_own=True, user_permissions=NOBODY)
    for field, value in (("role", "User"), ("active", True), ("active", False)):
        with pytest.raises(NotPermitted, match="may not change your own role"):
            check_change(NOBODY, {field: value, "login": "x"}, is_own=True, user_permissions=NOBODY)
        check_change(WRITER, {field: value}, is_own=True, user_permissions=WRITER)


def test_giving():
    """Assigning a role needs roles.write and all its permissions."""
    check_role_assignment(ADMINISTRATOR, ADMINISTRATOR)
    check_role_assignment(GIVER, ["users.write"])
    for held, given in ((WRITER, NOBODY), (GIVER, ["users.read"]), (GIVER, ADMINISTRATOR), (NOBODY, NOBODY)):
        with pytest.raises(NotPermitted):
            check_role_assignment(held, given)


def test_current_password():
    """Only a new password of one's own comes with the current one; all errors are reported, with their fields."""
    new, both, neither, alone = (
        {"password": "a"},
        {"password": "a", "current_password": "b"},
        {"login": "a"},
        {"current_password": "b"},
    )
    check_passwords([(None, UserChange(ANN, both))], ANN)
    check_passwords([(0, UserChange(ANN, neither)), (1, UserChange(BOB, new))], ANN)
    with pytest.raises(InvalidInput) as caught:
        check_passwords([(None, UserChange(ANN, new))], ANN)
    assert [fault.field for fault in caught.value.fields] == ["current_password"]
    with pytest.raises(InvalidInput) as caught:
        check_passwords(
            [
                (0, UserChange(BOB, both)),
                (1, UserChange(BOB, alone)),
                (2, UserChange(ANN, neither)),
                (3, UserChange(ANN, alone)),
            ],
            ANN,
        )
    assert [fault.field for fault in caught.value.fields] == [f"{index}.current_password" for index in (0, 1, 3)]
