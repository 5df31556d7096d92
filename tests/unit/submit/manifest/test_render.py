from __future__ import annotations

import copy
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.sections.kubernetes_section import WorkerPods
from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.connection_settings import choose_proxy
from medfuncta_dist.submit.manifest import job_names
from medfuncta_dist.submit.manifest.base_manifest import list_shipped_overlays, load_base
from medfuncta_dist.submit.manifest.manifest_text import to_yaml
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.manifest.runtime_env import read_environment, read_run_file
from medfuncta_dist.submit.rules.validate_manifest import validate
from tests.unit.submit.manifests import manifest, run_file


def pods(rendered):
    """The pod specs: head first."""
    cluster = rendered["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def environment(pod):
    """Ray's container's variables."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in pod["containers"][0]["env"]}


def test_the_same_submission_makes_the_same_bytes_and_leaves_the_base_alone():
    base = load_base(["gpu"])
    before = copy.deepcopy(base)
    submission = Submission(run_file(), ("train",), 1, "chest-1", "abc")
    assert to_yaml(render(submission, base)) == to_yaml(render(submission, base))
    assert base == before


def test_the_run_file_inside_is_the_resolved_one():
    run = run_file()
    carried = parse(read_run_file(manifest()))
    assert carried.cluster.cache == "/cache"
    assert carried.model_copy(update={"cluster": run.cluster}) == run
    assert read_environment(manifest())["MEDFUNCTA_JOB"] == "chest-1"
    assert manifest()["spec"]["entrypoint"] == "medfuncta-dist run env:MEDFUNCTA_RUN_FILE train --json"


def test_evaluating_asks_for_no_gpu_where_there_is_none_and_packing_keeps_what_decides_chunk_sizes():
    carried = {s: parse(read_run_file(manifest(stages=[s]))) for s in ("pack", "fit", "evaluate")}
    assert {s: run.cluster.gpus_per_worker for s, run in carried.items()} == {"pack": 1, "fit": 1, "evaluate": 0}
    assert {s: run.gpus_per_task for s, run in carried.items()} == {"pack": 0, "fit": 1, "evaluate": 0}


def test_a_job_that_evaluates_on_cpus_has_no_share_of_a_gpu_in_its_run_file():
    shared = run_file("fit.gpus_per_task=0.5", "kubernetes.gpu.workers=2")
    for stages, gpus in ((("fit", "evaluate"), 0.5), (("evaluate",), 0), (("pack",), 0)):
        rendered = render(Submission(shared, stages, 1, "chest-1", "abc"), load_base([]))
        assert parse(read_run_file(rendered)).gpus_per_task == gpus


def test_a_manifest_read_again_from_yaml_is_the_same():
    assert yaml.safe_load(to_yaml(manifest())) == manifest()
    assert json.loads(json.dumps(manifest())) == manifest()


def test_labels_tell_run_stage_attempt_and_digest_and_pods_have_them_too():
    rendered = manifest()
    labels = rendered["metadata"]["labels"]
    assert labels[job_names.RUN_LABEL], labels[job_names.STAGE_LABEL] == ("chest", "train")
    assert labels[job_names.RUN_FILE_DIGEST_LABEL] == run_file().digest()[:63]
    assert rendered["metadata"]["annotations"][job_names.RUN_FILE_DIGEST_LABEL] == run_file().digest()
    worker = rendered["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    assert worker.items() <= labels.items()


def test_an_idempotency_key_is_a_label_and_is_not_told():
    submission = Submission(run_file(), ("train",), 1, "chest-1", "abc", "what a person / wrote")
    rendered = render(submission, load_base())
    assert rendered["metadata"]["labels"][job_names.IDEMPOTENCY_KEY_LABEL] == job_names.hash_idempotency_key(
        "what a person / wrote"
    )
    assert "wrote" not in to_yaml(rendered)


def test_a_job_has_the_pods_that_its_stages_use_and_no_others():
    jobs = {stages: manifest(stages=stages.split()) for stages in ("pack", "train", "pack train")}
    groups = {k: [g["groupName"] for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]] for k, job in jobs.items()}
    assert groups == {"pack": ["cpu"], "train": ["gpu"], "pack train": ["cpu", "gpu"]}
    clusters = [json.dumps(job["spec"]["rayClusterSpec"]) for job in jobs.values()]
    assert ["nvidia.com/gpu" in cluster for cluster in clusters] == [False, True, True]
    assert [job["metadata"]["name"] for job in jobs.values()] == ["chest-pack-1", "chest-train-1", "chest-pt1"]


def test_requests_equal_limits_and_the_sizes_are_the_run_files():
    rendered = manifest("kubernetes.gpu.workers=2", "kubernetes.gpu.memory_gigabytes=64")
    head, worker = pods(rendered)
    resources = worker["containers"][0]["resources"]
    wanted = {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "40Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == resources["limits"] == wanted
    assert {v["name"]: v.get("emptyDir") for v in worker["volumes"]}["shm"]["sizeLimit"] == "26215Mi"
    of_head = {"cpu": "2", "memory": "16Gi", "ephemeral-storage": "36Gi"}
    assert head["containers"][0]["resources"]["limits"] == of_head
    assert rendered["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 4


def test_threads_go_to_workers_and_extra_variables_to_all():
    head, worker = pods(manifest("kubernetes.environment={AWS_REGION: eu-central-1}"))
    assert environment(worker)["OMP_NUM_THREADS"] == "4"
    assert environment(head)["AWS_REGION"] == environment(worker)["AWS_REGION"] == "eu-central-1"
    assert environment(worker)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "100"


def test_the_salt_goes_to_the_head_of_a_job_that_packs_and_nowhere_else():
    head, worker = pods(manifest(stages=["pack"]))
    assert environment(head)["MEDFUNCTA_SALT"] == {"secretKeyRef": {"name": "medfuncta-salt", "key": "MEDFUNCTA_SALT"}}
    assert "MEDFUNCTA_SALT" not in environment(worker)
    assert "MEDFUNCTA_SALT" not in to_yaml(manifest(stages=["train"])).replace("salt_secret", "")


def test_secrets_are_named_and_never_held():
    rendered = manifest("kubernetes.storage_secret=s3-keys", "kubernetes.wandb_secret=wandb")
    for pod in pods(rendered):
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
        assert environment(pod)["WANDB_API_KEY"]["secretKeyRef"]["name"] == "wandb"
    off = manifest("kubernetes.wandb_secret=wandb", "telemetry.wandb='off'")
    assert all("WANDB_API_KEY" not in environment(pod) for pod in pods(off))


def test_claims_are_mounted_everywhere_and_the_cache_may_be_a_volume():
    rendered = manifest(
        "kubernetes.claims={archive: /data}", "kubernetes.cache_storage_class=nvme", "cluster.cache=/fast"
    )
    for pod in pods(rendered):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["claim-archive"]["persistentVolumeClaim"] == {"claimName": "archive"}
        assert set(volumes["cache"]) == {"name", "ephemeral"}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert (mounts["claim-archive"], mounts["cache"], mounts["shm"]) == ("/data", "/fast", "/dev/shm")
    assert parse(read_run_file(rendered)).cluster.cache == "/fast"


def test_nodes_are_chosen_beside_what_an_overlay_says():
    settings = ["kubernetes.gpu.labels={pool: big}", "kubernetes.gpu.tolerations=['dedicated=ml:NoSchedule', other]"]
    head, worker = pods(manifest(*settings, overlays=["gpu"]))
    assert worker["nodeSelector"] == {"pool": "big"}
    assert worker["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"},
        {"key": "other", "operator": "Exists"},
    ]
    assert "nodeSelector" not in head
    assert "tolerations" not in head


def test_a_range_grows_by_itself_and_in_a_queue_asks_for_the_most():
    free = manifest("cluster.workers=[2, 8]")["spec"]["rayClusterSpec"]
    assert free["enableInTreeAutoscaling"] is True
    assert free["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert [free["workerGroupSpecs"][0][k] for k in ("minReplicas", "replicas", "maxReplicas")] == [2, 2, 8]
    queued = manifest("cluster.workers=[2, 8]", "kubernetes.queue=q")["spec"]["rayClusterSpec"]
    assert "enableInTreeAutoscaling" not in queued
    assert [queued["workerGroupSpecs"][0][k] for k in ("minReplicas", "replicas", "maxReplicas")] == [2, 8, 8]


def test_queue_and_priority_are_the_overlays_unless_given():
    labels = manifest("kubernetes.priority=urgent", overlays=["kueue"])["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "medfuncta"
    assert labels["kueue.x-k8s.io/priority-class"] == "urgent"
    assert "kueue.x-k8s.io/queue-name" not in manifest()["metadata"]["labels"]


def test_a_limited_run_in_a_queue_is_limited_there_too_and_only_there():
    label = job_names.MAX_TIME_LABEL
    for overlays, seconds, found in (([], 7200, None), (["kueue"], 7200, "7200"), (["kueue"], None, None)):
        submission = Submission(run_file(), ("train",), 1, "chest-1", "abc", queue_seconds=seconds)
        rendered = render(submission, load_base(overlays))
        assert rendered["metadata"]["labels"].get(label) == found
        assert validate(rendered) == []


def test_pull_secrets_and_priority_classes_are_those_of_the_pods():
    keys = ["image_pull_secrets=[registry, mirror]", "priority_class=batch", "head_priority_class=batch-head"]
    head, worker = pods(manifest(*(f"kubernetes.{key}" for key in keys)))
    assert head["imagePullSecrets"] == worker["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
    assert (head["priorityClassName"], worker["priorityClassName"]) == ("batch-head", "batch")
    assert [p["priorityClassName"] for p in pods(manifest("kubernetes.priority_class=all"))] == ["all", "all"]
    assert all(not {"imagePullSecrets", "priorityClassName"} & set(pod) for pod in pods(manifest()))


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "amd.com/gpu"])
def test_another_gpu_resource_is_requested_by_its_name_and_told_to_ray(resource):
    rendered = manifest(f"kubernetes.gpu_resource={resource}", "kubernetes.gpu.workers=2", stages=["pack", "train"])
    cpu, gpu = rendered["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits[resource] == "2"
    assert "nvidia.com/gpu" not in limits
    assert gpu["rayStartParams"]["num-gpus"] == "2"
    assert "num-gpus" not in cpu["rayStartParams"]
    assert validate(rendered) == []
    with pytest.raises(RunFileError, match="gpu_resource"):
        run_file("kubernetes.gpu_resource=gpu")


def test_a_run_file_that_cannot_travel_is_refused():
    with pytest.raises(RunFileError, match="Ray would read as a variable"):
        manifest("data.source=s3://archive/$HOME/*.png")
    with pytest.raises(RunFileError, match="a job can carry 65536"):
        manifest(f"data.source=[{', '.join(f's3://archive/{n:060}.png' for n in range(1000))}]")


def test_a_run_file_is_measured_as_ray_carries_it():
    """Each of these letters is two bytes, and six in JSON."""
    with pytest.raises(RunFileError, match="a job can carry 65536"):
        manifest(f"evaluate.note={'é' * 20_000}")
    manifest(f"evaluate.note={'e' * 20_000}")


def test_every_image_is_the_jobs():
    for stages, image in ((["train"], "a:1"), (["pack"], "b:1")):
        rendered = manifest("kubernetes.image=a:1", "kubernetes.cpu_image=b:1", stages=stages)
        assert {c["image"] for pod in pods(rendered) for c in pod["containers"]} == {image}


@settings(max_examples=20, deadline=None)
@given(
    name=st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
    workers=st.one_of(st.integers(1, 24), st.tuples(st.integers(1, 8), st.integers(9, 24)).map(list)),
    gpus=st.sampled_from([0, 1]),
    a_task=st.sampled_from([None, 0, 0.5, 1, 2]),
    a_pod=st.integers(1, 8),
    memory=st.floats(8, 500),
    overlays=st.lists(st.sampled_from(list_shipped_overlays()), unique=True),
    stages=st.lists(st.sampled_from(STAGES), min_size=1, unique=True),
    queue=st.booleans(),
)
def test_whatever_a_run_file_asks_for_is_valid_or_refused_in_words(
    name, workers, gpus, a_task, a_pod, memory, overlays, stages, queue
):
    run = run_file(f"name={name}", f"cluster.workers={workers}", f"cluster.gpus_per_worker={gpus}")
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"gpus_per_task": a_task})})
    pods_ = WorkerPods(workers=a_pod, memory_gigabytes=memory)
    kubernetes = run.kubernetes.model_copy(update={"gpu": pods_, "cpu": pods_, "queue": "q" if queue else None})
    submission = Submission(run.model_copy(update={"kubernetes": kubernetes}), tuple(stages), 1, "s", "c")
    if "fit" in stages and a_task == 0.5 and a_pod % 2 and not ("train" in stages and gpus):
        with pytest.raises(RunFileError, match="Kubernetes assigns whole GPUs only"):
            render(submission, load_base(overlays))
    else:
        assert validate(render(submission, load_base(overlays))) == []


def test_a_config_map_of_cas_is_mounted_in_every_pod_and_named_in_its_variables():
    for pod in pods(manifest("kubernetes.ca_config_map={name: hospital-ca, key: bundle.pem}")):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        items = [{"key": "bundle.pem", "path": "bundle.pem"}]
        assert volumes["ca"]["configMap"] == {"name": "hospital-ca", "items": items}
        mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["ca"] == {"name": "ca", "mountPath": "/etc/medfuncta/ca", "readOnly": True}
        found = environment(pod)
        assert {found[name] for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")} == {
            "/etc/medfuncta/ca/bundle.pem"
        }


def test_a_proxy_is_in_every_pod_and_never_between_ray_s_own_parts(monkeypatch):
    proxy = "kubernetes.proxy={https: 'http://proxy.test:3128', http: 'http://proxy.test:3129', no_proxy: [.lan]}"
    endpoint = "kubernetes.environment={AWS_ENDPOINT_URL: 'http://minio:9000'}"
    for pod in pods(manifest(proxy, endpoint)):
        found = environment(pod)
        for name, value in (("HTTPS_PROXY", "http://proxy.test:3128"), ("HTTP_PROXY", "http://proxy.test:3129")):
            assert found[name] == found[name.lower()] == value
        assert found["NO_PROXY"] == found["no_proxy"]
        monkeypatch.setenv("no_proxy", found["NO_PROXY"])
        monkeypatch.setenv("http_proxy", found["http_proxy"])
        direct = [
            "localhost",
            "127.0.0.1",
            "chest-1-abcde-head-svc.medfuncta.svc.cluster.local",
            "x-head-svc.medfuncta.svc",
        ]
        direct += [
            "kubernetes.default",
            "169.254.169.254",
            "169.254.170.23",
            "minio",
            "object-store.medfuncta",
            "s3.lan",
        ]
        assert [choose_proxy(f"http://{host}:8000/") for host in direct] == [None] * len(direct)
        assert choose_proxy("http://s3.amazonaws.com/") == "http://proxy.test:3129"


def test_what_the_run_file_sets_itself_wins_over_what_follows_from_the_proxy():
    head, _ = pods(
        manifest("kubernetes.proxy={https: 'http://proxy.test:1'}", "kubernetes.environment={NO_PROXY: mine}")
    )
    assert environment(head)["NO_PROXY"] == "mine"


def test_a_password_of_a_proxy_is_refused():
    with pytest.raises(RunFileError, match=r"kubernetes\.proxy\.https"):
        run_file("kubernetes.proxy={https: 'http://me:word@proxy.test:1'}")


def test_jobs_with_cas_and_a_proxy_are_valid():
    keys = ["kubernetes.ca_config_map={name: ca}", "kubernetes.proxy={https: 'http://proxy.test:1'}"]
    assert validate(manifest(*keys, overlays=["spot", "kueue"])) == []
