// expect: the optimizer lacks a State for this backend
// An optimizer without the state that does its work.
#include "elcrec/backend/reference.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/train/trainer.hpp"

struct Stateless {
  static constexpr std::string_view name = "stateless";
  template <class B>
  struct State {};
};

using Model = elcrec::SasRec<elcrec::Reference>;
template class elcrec::Trainer<Model, Stateless>;
