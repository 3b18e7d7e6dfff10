"""Which variables a job gets: by default, by name, by value; secrets apart from the others."""

import pytest

from cluster.command import UserError
from cluster.job_environment import gather

HERE = {
    "MELTMATCH_DATA": "/data",
    "WANDB_MODE": "",
    "WANDB_BASE_URL": "https://wandb.example",
    "WANDB_API_KEY": "0123456789",
    "HF_TOKEN": "hf_0123456789",
    "HOME": "/home/somebody",
    "OTHER": "",
}


def test_some_are_passed_whenever_they_are_set() -> None:
    environment = gather([], True, HERE)
    assert environment.plain == {"MELTMATCH_DATA": "/data", "WANDB_BASE_URL": "https://wandb.example"}
    assert environment.secret == {"WANDB_API_KEY": "0123456789"}


def test_the_key_of_wandb_can_be_left_at_home() -> None:
    assert gather([], False, HERE).secret == {}


def test_more_are_passed_by_name() -> None:
    environment = gather(["HF_TOKEN", "OTHER", "NCCL_DEBUG=INFO", "EQUATION=a=b"], False, HERE)
    assert environment.secret == {"HF_TOKEN": "hf_0123456789"}
    assert environment.plain.items() >= {"OTHER": "", "NCCL_DEBUG": "INFO", "EQUATION": "a=b"}.items()


def test_a_password_in_an_address_is_a_secret() -> None:
    environment = gather([], False, {"WANDB_BASE_URL": "https://me:pa55@wandb.example"})
    assert environment.plain == {}
    assert set(environment.secret) == {"WANDB_BASE_URL"}


def test_secrets_are_not_shown() -> None:
    assert "0123456789" not in repr(gather(["HF_TOKEN"], True, HERE))


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "my_password", "CLIENT_SECRET"])
def test_a_secret_on_the_command_line_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--env {name}=...: .* history.* write --env {name}$") as caught:
        gather([f"{name}=s3cret"], False, HERE)
    assert "s3cret" not in str(caught.value)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="--env NOT_THERE: it is not set here"):
        gather(["NOT_THERE"], False, HERE)
    with pytest.raises(UserError, match="found 'a b', which is no name"):
        gather(["a b=1"], False, HERE)
