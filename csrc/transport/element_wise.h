#pragma once
// at[i] = operation(at[i], ...) for arrays, on either place of for_each.h.
//
// A GPU thread that moves 16 bytes at once keeps the memory busier than one that moves an element. So the elements
// between the first and the last 16-byte boundary of `at` go by *packs* of 16 bytes, and the few before and after, the
// *rest*, one by one; all in one launch: the first indices are packs, the last ones are the rest. An operand that lies
// differently to those boundaries is taken element by element. The CPU runs the same body.

#include <cstddef>
#include <cstdint>

#include "transport/for_each.h"

namespace merak {

inline constexpr std::size_t kPackBytes = 16;

template <class T>
struct alignas(kPackBytes) Pack {
  static constexpr std::size_t kElements = kPackBytes / sizeof(T);
  T values[kElements];
};

// The packs of an array of `count` elements at `address`.
struct Packs {
  std::size_t head = 0;   // elements before the first pack
  std::size_t count = 0;  // packs
};

template <class T>
Packs packs_of(const T* address, std::size_t count) {
  const std::size_t beyond = reinterpret_cast<std::uintptr_t>(address) % kPackBytes;
  if (beyond % sizeof(T) != 0) return {};  // no element begins at a boundary
  const std::size_t head = (kPackBytes - beyond) % kPackBytes / sizeof(T);
  if (head >= count) return {};
  return {head, (count - head) / Pack<T>::kElements};
}

// A body of for_each: Each::pack(first) for the elements of a pack, Each::single(i) for one of the rest.
template <class T, class Each>
struct ByPacks {
  Packs packs;
  Each each;

  MERAK_HD void operator()(std::size_t i) const {
    if (i < packs.count) return each.pack(packs.head + i * Pack<T>::kElements);
    const std::size_t rest = i - packs.count;
    each.single(rest < packs.head ? rest : rest + packs.count * Pack<T>::kElements);
  }

  std::size_t indices(std::size_t elements) const { return elements - packs.count * (Pack<T>::kElements - 1); }
};

template <class T, class Operation>
struct UpdateEach {
  T* at;
  Operation operation;

  MERAK_HD void pack(std::size_t first) const {
    Pack<T> result = *reinterpret_cast<Pack<T>*>(at + first);
    for (T& value : result.values) value = operation(value);
    *reinterpret_cast<Pack<T>*>(at + first) = result;
  }
  MERAK_HD void single(std::size_t i) const { at[i] = operation(at[i]); }
};

template <class T, class Operation>
struct CombineEach {
  T* at;
  const T* from;
  Operation operation;

  MERAK_HD void pack(std::size_t first) const {
    Pack<T> result = *reinterpret_cast<Pack<T>*>(at + first);
    const Pack<T> operand = *reinterpret_cast<const Pack<T>*>(from + first);
    for (std::size_t i = 0; i < Pack<T>::kElements; ++i)
      result.values[i] = operation(result.values[i], operand.values[i]);
    *reinterpret_cast<Pack<T>*>(at + first) = result;
  }
  MERAK_HD void single(std::size_t i) const { at[i] = operation(at[i], from[i]); }
};

// at[i] = operation(at[i]) for i below `count`. `operation`: a struct with MERAK_HD T operator()(T) const.
template <class Place, class T, class Operation>
void update_each(Place place, T* at, std::size_t count, Operation operation) {
  const ByPacks<T, UpdateEach<T, Operation>> body{packs_of(at, count), {at, operation}};
  for_each(place, body.indices(count), body);
}

// at[i] = operation(at[i], from[i]) for i below `count`. The arrays are the same or do not overlap.
template <class Place, class T, class Operation>
void combine_each(Place place, T* at, const T* from, std::size_t count, Operation operation) {
  const bool alike =
      reinterpret_cast<std::uintptr_t>(at) % kPackBytes == reinterpret_cast<std::uintptr_t>(from) % kPackBytes;
  const ByPacks<T, CombineEach<T, Operation>> body{alike ? packs_of(at, count) : Packs{}, {at, from, operation}};
  for_each(place, body.indices(count), body);
}

}  // namespace merak
