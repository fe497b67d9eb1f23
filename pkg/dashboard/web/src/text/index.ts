import { createContext, useContext } from "react";
import { en, type Text } from "./en";
import { fr } from "./fr";

export type { Text };
export type Language = "en" | "fr";
export const languages: Record<Language, Text> = { en, fr };
export const names: Record<Language, string> = { en: "English", fr: "Français" };

/** preferred is the language the user has chosen here, or the browser's. */
export function preferred(): Language {
  const chosen = localStorage.getItem("kedge-language") ?? navigator.language;
  return chosen.startsWith("fr") ? "fr" : "en";
}

export const TextContext = createContext<Text>(en);

export function useText(): Text {
  return useContext(TextContext);
}
