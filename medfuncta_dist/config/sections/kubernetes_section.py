"""The section ``kubernetes`` of the run file: how a submitted job looks in the cluster."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medfuncta_dist.config.keys import RESOURCES, Added
from medfuncta_dist.config.section import NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Section

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""What Kubernetes calls a DNS label (RFC 1123): the name of a namespace, a Secret, a queue."""
Taint = Annotated[str, Field(pattern=r"^[^=:,\s]+(=[^=:,\s]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

RESOURCE = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
"""What Kubernetes calls an extended resource: a domain, and a name."""
DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"


ProxyUrl = Annotated[str, Field(pattern=r"^https?://[^@/\s]+/?$")]
"""Without a user and a password, which belong in a Secret: a run file is stored and printed."""
ConfigMapName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
ConfigMapKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]


class Nodes(Section):
    """The nodes on which pods may run."""

    labels: dict[str, str] = Field(default={})
    """Labels that a node must have."""
    tolerations: list[Taint] = Field(default=[])
    """Taints that pods tolerate, in the notation of `kubectl taint`, for example dedicated=ml:NoSchedule."""


class HeadPod(Nodes):
    """The pod of Ray's head, where a stage's driver runs. It takes no tasks, and stays off spot nodes."""

    cpus: PositiveFloat = 2
    """CPU cores."""
    memory_gigabytes: PositiveFloat = 16
    """Memory (GiB)."""


class WorkerPods(Nodes):
    """Pods of workers. Their CPUs and GPUs follow from `workers` here and from `cluster`."""

    workers: PositiveInt = 1
    """Workers, or concurrent tasks, per pod. One pod per whole node has faster links between its GPUs."""
    pods: PositiveInt | None = None
    """Number of pods. Default: enough for cluster.workers."""
    memory_gigabytes: PositiveFloat = 16
    """Memory per pod (GiB), shared memory and object store included."""


class CaConfigMap(Section):
    """A ConfigMap with the certificates of the CAs that pods trust, as PEM."""

    name: ConfigMapName
    """Its name."""
    key: ConfigMapKey = "ca.crt"
    """The key whose value is the PEM text."""


class Proxy(Section):
    """The proxy through which pods reach what is outside the cluster."""

    https: ProxyUrl | None = None
    """Its address for https:// addresses, for example http://proxy.example:3128, without user and password."""
    http: ProxyUrl | None = None
    """Its address for http:// addresses."""
    no_proxy: list[Annotated[str, Field(pattern=r"^[^,\s]+$")]] = Field(default=[])
    """Hosts, or domains with a leading dot, that pods reach directly; the cluster's own are always among them."""


class Prices(Section):
    """What a cluster costs, for the cost that `status` shows. Without a price, it shows hours."""

    gpu_hour: NaturalFloat | None = None
    """Price per GPU and hour, its share of CPUs and memory included."""
    cpu_hour: NaturalFloat | None = None
    """Price per CPU core and hour, in pods without a GPU."""
    currency: Annotated[str, Field(min_length=1, max_length=8)] = "USD"
    """Currency of both."""


class Kubernetes(Section):
    """How a submitted job looks in the cluster. None of these change what is computed."""

    MEANING: ClassVar = RESOURCES

    namespace: Label = "medfuncta"
    """Namespace of the RayJob; k8s/base creates the default one."""
    overlays: list[str] = Field(default=[])
    """Patches of the RayJob, in order: gpu, spot, kueue, local (shipped), or a folder with your own rayjob.yaml."""
    image: str | None = None
    """Container image. Default: medfuncta-dist:<version>-ray<version>, without a registry: nodes must
    already have it. For an image to be pulled, give its full name with the registry. `medfuncta-dist image DIR`
    writes what builds it."""
    cpu_image: str | None = None
    """Image of jobs that use no GPU. Default: ``image``."""
    ray_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] | None = None
    """Ray's version in the image. Default: the installed one. Must match the image's tag if that names one."""
    service_account: Label = "medfuncta"
    """ServiceAccount of all pods: on EKS, its annotation gives the role for S3."""
    storage_secret: Label | None = None
    """Secret whose keys become environment variables (AWS_ACCESS_KEY_ID and so on), if there is no such role."""
    salt_secret: Label | None = "medfuncta-salt"
    """Secret with the salt under MEDFUNCTA_SALT; only the head of jobs that pack gets it."""
    wandb_secret: Label | None = None
    """Secret with the key of Weights & Biases under WANDB_API_KEY; needs the overlay wandb in the cluster."""
    environment: dict[Variable, str] = Field(default={})
    """Environment variables of all pods, such as AWS_REGION and AWS_ENDPOINT_URL. Never credentials."""
    ca_config_map: Annotated[CaConfigMap | None, Added(None)] = None
    """ConfigMap with the CAs that all pods trust, for storage (or a proxy) whose certificate is from a private CA. It
    replaces the usual list of CAs: include that where pods also reach public hosts, such as Weights & Biases."""
    proxy: Annotated[Proxy | None, Added(None)] = None
    """Proxy of all pods: sets HTTPS_PROXY, HTTP_PROXY and NO_PROXY. A password: put these in ``storage_secret``."""
    claims: dict[Label, str] = Field(default={})
    """PersistentVolumeClaims and the paths at which all pods mount them, for example an archive on NFS."""
    queue: Label | None = None
    """Kueue's LocalQueue. Default: that of the overlay kueue, or none."""
    priority: Label | None = None
    """Kueue's WorkloadPriorityClass. Default: that of the overlay kueue, or none."""
    head: HeadPod = HeadPod()
    """Ray's head."""
    cpu: WorkerPods = WorkerPods()
    """Pods without GPUs: pack and evaluate, and train and fit if their workers or tasks get no GPU."""
    gpu: WorkerPods = WorkerPods()
    """Pods with GPUs: train and fit."""
    shm_gigabytes: PositiveFloat | None = None
    """Shared memory of a worker pod, taken from its memory. Default: 40 % of that; Ray's object store takes 30 %."""
    cache_path: Annotated[str, Field(pattern=r"^/[^:]+$")] = "/cache"
    """Where the volume for verified shards is mounted, unless cluster.cache names another place."""
    cache_storage_class: Label | None = None
    """StorageClass of the cache, one volume per pod. Default: the node's own disk (emptyDir)."""
    backoff_limit: NaturalInt = 3
    """Retries of a failed RayJob, each with a new cluster. Preemption by Kueue does not count."""
    ttl_seconds: NaturalInt = 60
    """Seconds for which a finished job's cluster, with its GPUs, is kept."""
    prices: Prices = Prices()
    """What the cluster costs."""
    max_hours: Annotated[PositiveFloat | None, Added(None)] = None
    """Hours that the run may take, all its stages and attempts together. The driver then stops at a checkpoint, or
    after the tasks that run, with exit code 5; a higher limit continues the run. Time in a queue does not count. Kueue
    ends a queued job a little later, if its driver has not. Drivers outside Kubernetes keep the limit, too."""
    max_cost: Annotated[PositiveFloat | None, Added(None)] = None
    """Money that the run may cost, by `prices` and in their currency; kept as max_hours is. Of a range of workers, the
    most are counted."""
    image_pull_secrets: Annotated[list[Label], Added([])] = Field(default=[])
    """Secrets with which nodes pull the image from a private registry, of type kubernetes.io/dockerconfigjson."""
    priority_class: Annotated[Label | None, Added(None)] = None
    """PriorityClass of all pods: the order in which nodes are given to them and taken from them. `priority` is Kueue's,
    which orders jobs."""
    head_priority_class: Annotated[Label | None, Added(None)] = None
    """PriorityClass of the head's pod, whose end is the job's. Default: priority_class."""
    gpu_resource: Annotated[str, Field(pattern=RESOURCE), Added(DEFAULT_GPU_RESOURCE)] = DEFAULT_GPU_RESOURCE
    """What the cluster calls a GPU: nvidia.com/gpu, a MIG slice such as nvidia.com/mig-1g.10gb, amd.com/gpu."""
    zones: Annotated[Literal["any", "same", "spread"], Added("any")] = "any"
    """Where a job's pods may be: anywhere; `same`, all in one zone (fast links, no traffic to pay; but a job waits
    until one zone has room); or `spread`, workers evenly over the zones where possible (a lost zone takes few)."""
    zone_label: Annotated[str, Field(min_length=1), Added("topology.kubernetes.io/zone")] = (
        "topology.kubernetes.io/zone"
    )
    """Label of nodes that tells the zone. Another one makes `zones` mean racks or nodes (kubernetes.io/hostname)."""
    ephemeral_storage: Annotated[bool, Added(False)] = True
    """Pods request and limit space on the node's disk: for cache, logs, spilled objects and temporary files. Set false
    where Kueue's ClusterQueue does not cover ephemeral-storage: there, such a job waits for ever."""
    logs_gigabytes: Annotated[PositiveFloat, Added(5.0)] = 5.0
    """Space for Ray's logs and temporary files per pod (GiB); a pod that exceeds it is evicted."""
    spill_path: Annotated[str, Field(pattern=r"^/[^:]+$"), Added("/spill")] = "/spill"
    """Where Ray writes objects for which its store has no room: the volume of the next key is mounted there."""
    spill_gigabytes: Annotated[PositiveFloat, Added(5.0)] = 5.0
    """Space for those objects per pod (GiB)."""
    scratch_gigabytes: Annotated[PositiveFloat, Added(4.0)] = 4.0
    """Space for temporary files per worker (GiB). The stage pack copies a source there, and writes a task's shards:
    raise it to three times the largest source file."""

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Kubernetes:
        if self.max_cost is not None and self.prices.gpu_hour is None and self.prices.cpu_hour is None:
            raise ValueError(
                f"max_cost is {self.max_cost:g}, but nothing has a price: set prices.gpu_hour, prices.cpu_hour, or both"
            )
        return self
