"""The synthetic records: reproducible, consistent with each other, and the ones that are committed."""

from datetime import date
from decimal import Decimal
from importlib import resources

from gateway.demo.synthesis import CLAIMS, PATIENTS, REFERENCE_DAY, Dataset, generate


def committed(name: str) -> str:
    return resources.files("gateway.demo").joinpath("data", name).read_text(encoding="utf-8")


def ids(dataset: Dataset, kind: str) -> list[str]:
    return [record["id"] for record in getattr(dataset, kind)]


def test_same_seed_gives_the_same_records() -> None:
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)


def test_committed_files_are_what_the_generator_writes() -> None:
    for name, text in generate().files().items():
        assert committed(name) == text, f"{name} is stale: run scripts/generate-demo-data"


def test_ids_are_unique_and_the_example_patient_exists() -> None:
    dataset = generate()
    assert len(dataset.patients) == PATIENTS
    assert len(dataset.claims) == CLAIMS
    for kind in ("patients", "plans", "policies", "claims"):
        assert len(set(ids(dataset, kind))) == len(ids(dataset, kind))
    assert "123" in ids(dataset, "patients")


def test_policies_and_claims_refer_to_records_that_exist() -> None:
    dataset = generate()
    holder = {policy["id"]: policy["beneficiary"] for policy in dataset.policies}
    assert set(holder.values()) <= set(ids(dataset, "patients"))
    assert {policy["plan"] for policy in dataset.policies} == set(ids(dataset, "plans"))
    assert all(holder[claim["insurance"]] == claim["patient"] for claim in dataset.claims)


def test_totals_are_the_exact_sum_of_the_items() -> None:
    for claim in generate().claims:
        assert Decimal(claim["total"]["value"]) == sum(Decimal(item["net"]) for item in claim["item"])


def test_no_record_is_from_the_future() -> None:
    dataset = generate()
    assert all(date.fromisoformat(patient["birthDate"]) <= REFERENCE_DAY for patient in dataset.patients)
    assert all(date.fromisoformat(claim["created"]) <= REFERENCE_DAY for claim in dataset.claims)
