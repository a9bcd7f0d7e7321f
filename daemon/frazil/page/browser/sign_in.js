// The token, which is asked for once a browser: a cookie that no script can read is what stays of it.

import { ask, byId, element, say, whenTokenIsNeeded } from "/static/dom.js";
import { corrector, setCorrector } from "/static/edits.js";

let isSignedIn = false;
let waits = null;

/** Puts the button into the page's head, and asks for the token where a change needs it. */
export async function offerSignIn() {
  whenTokenIsNeeded(askForToken);
  const button = byId("sign");
  button.addEventListener("click", () => (isSignedIn ? signOut() : askForToken()));
  await look();
}

async function look() {
  try {
    show(await ask("/api/sign-in"));
  } catch {
    // the link to the daemon says so
  }
}

function show({ signed_in, token_file, host }) {
  isSignedIn = signed_in;
  const button = byId("sign");
  button.hidden = false;
  say(button, signed_in ? "Sign out" : "Sign in");
  button.title = signed_in ? "This browser may change things" : "To change settings, or correct picks, the token is needed once";
  if (token_file) Object.assign(button.dataset, { file: token_file, host });
}

/** Resolves to whether the browser is signed in. */
function askForToken() {
  waits ??= new Promise((resolve) => {
    const { file = "frazil-page-token", host = "the daemon’s machine" } = byId("sign").dataset;
    const token = element("input", { type: "password", name: "token", required: true, autocomplete: "current-password", spellcheck: "false" });
    const name = element("input", { type: "text", name: "name", autocomplete: "nickname", maxlength: 60 });
    name.value = corrector();
    const told = element("p", { class: "result", role: "alert" });
    const dialog = element("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" });
    const finish = (done) => {
      dialog.close();
      dialog.remove();
      waits = null;
      resolve(done);
    };
    const submit = async (event) => {
      event.preventDefault();
      try {
        const body = JSON.stringify({ token: token.value.trim() });
        show(await ask("/api/sign-in", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
        setCorrector(name.value);
        finish(true);
      } catch (error) {
        say(told, `Not signed in: ${error.message}.`);
        token.select();
      }
    };
    dialog.append(
      element(
        "form",
        { onsubmit: submit },
        element("h2", { id: "sign-in-title" }, "Sign in"),
        element("p", {}, "Changes need the token of this daemon. It is asked for once in this browser."),
        element("label", { class: "token" }, "Token", token),
        element("p", { class: "hint" }, `On ${host}, as the user who runs frazil: `, element("code", {}, `cat ${file}`), " prints it. If you may not read that file, ask whoever runs the daemon."),
        element("label", { class: "token" }, "Your name, for corrections (may stay empty)", name),
        told,
        element("div", { class: "buttons" }, element("button", { class: "apply" }, "Sign in"), element("button", { type: "button", onclick: () => finish(false) }, "Cancel")),
      ),
    );
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      finish(false);
    });
    document.body.append(dialog);
    dialog.showModal();
    token.focus();
  });
  return waits;
}

async function signOut() {
  try {
    await ask("/api/sign-out", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
  } catch {
    // it was not signed in any more
  }
  await look();
}
