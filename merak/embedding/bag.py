"""The drop-in for torch.nn.EmbeddingBag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merak.embedding.module import ShardedEmbedding, Split

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedEmbeddingBag(ShardedEmbedding):
    """`torch.nn.EmbeddingBag` inside data parallelism, split over the ranks: `ShardedEmbedding`, whose rows are added
    up, or averaged, by bag. A row that several bags of a rank read travels once.

    Args:
        mode: "sum" or "mean".
        include_last_offset: as of `torch.nn.EmbeddingBag`.
        The others: as of `ShardedEmbedding`. Ids of the padding row count in no bag.

    Raises:
        ValueError: for another mode, which cannot be made of sums.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = True,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        mesh: DeviceMesh | None = None,
        split: Split = "columns",
        hot: torch.Tensor | None = None,
    ) -> None:
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode is {mode!r}; bags are added up ('sum') or averaged ('mean').")
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            scale_grad_by_freq,
            sparse,
            device,
            dtype,
            mesh=mesh,
            split=split,
            hot=hot,
        )
        self.mode, self.include_last_offset = mode, include_last_offset

    @classmethod
    def from_bag(
        cls,
        bag: torch.nn.EmbeddingBag,
        *,
        mesh: DeviceMesh | None = None,
        sparse: bool = True,
        split: Split = "columns",
        hot: torch.Tensor | None = None,
    ) -> ShardedEmbeddingBag:
        """With the weights of an `nn.EmbeddingBag`, which are the same on all ranks."""
        made = cls(
            bag.num_embeddings,
            bag.embedding_dim,
            bag.max_norm,
            bag.scale_grad_by_freq,
            bag.mode,
            sparse,
            bag.include_last_offset,
            bag.padding_idx,
            "meta",
            bag.weight.dtype,
            mesh=mesh,
            split=split,
            hot=hot,
        )
        made._take(bag.weight)
        return made

    def forward(
        self,
        ids: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A row for each bag, [bags, embedding_dim]. `ids`: [bags, n], or [ids] with `offsets`, where bags begin."""
        if ids.dim() == 2:
            if offsets is not None:
                raise ValueError("offsets are for ids of one dimension; bags of the same length are rows of ids.")
            offsets = torch.arange(ids.size(0)) * ids.size(1)
            per_sample_weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        elif ids.dim() != 1 or offsets is None:
            raise ValueError("ids have to be of two dimensions, or of one dimension with offsets.")
        flat = ids.reshape(-1)
        rows = super().forward(flat)
        places = torch.arange(len(flat))
        if self.padding_idx is not None:
            rows = torch.cat([rows, rows.new_zeros(1, self.embedding_dim)])
            places = places.where(flat != self.padding_idx, len(flat))
        return torch.nn.functional.embedding_bag(
            places,
            rows,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset and ids.dim() == 1,
            padding_idx=None if self.padding_idx is None else len(flat),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"
